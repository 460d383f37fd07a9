"""`tiny`: a Sam of 192 x 192 pixels input for 2-core machines; official decoder, own convolutional encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.official import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from models.sam_shapes import SIDE, STRIDE, WIDTH


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; (n, c, h, w) to the same."""

    def __init__(self, width: int) -> None:
        """width: channels in and out."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, c, h, w) float."""
        return F.relu(x + self.body(x))


def _reduce(wide: int, narrow: int) -> nn.Sequential:
    """Half the resolution, `narrow` channels."""
    return nn.Sequential(
        nn.Conv2d(wide, narrow, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()
    )


class LocalContrast(nn.Module):
    """Adds two channels to an image: its luminance less the local mean, plain and over the local deviation.

    A faint dent differs from its surroundings by a few grey values, a patch by a hundred: the second channel
    shows both at the same strength, the first says which it was.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, 3, h, w) float, normalised RGB; h and w multiples of 8. Returns (n, 5, h, w)."""
        grey = x.mean(1, keepdim=True)  # (n, 1, h, w)
        detail = grey - self._local_mean(grey)
        deviation = (self._local_mean(detail * detail) + 1e-4).sqrt()
        return torch.cat([x, 3 * detail, detail / (deviation + 0.02)], 1)

    @staticmethod
    def _local_mean(x: Tensor) -> Tensor:
        coarse = F.avg_pool2d(x, 8)
        smooth = F.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
        return F.interpolate(smooth, size=x.shape[-2:], mode="bilinear", align_corners=False)


class ConvolutionalEncoder(nn.Module):
    """Image encoder of `tiny`: details at stride 4, context of the whole image from a path down to stride 16.

    img_size: input side in pixels, as SamPredictor reads it.
    """

    def __init__(self, img_size: int = SIDE, width: int = WIDTH) -> None:
        """width: channels of the embedding; img_size: a multiple of 16."""
        super().__init__()
        self.img_size = img_size
        self.contrast = LocalContrast()
        self.stem = nn.Sequential(
            _reduce(5, 32), nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.down4 = nn.Sequential(_reduce(32, 64), Residual(64), Residual(64))
        self.down8 = nn.Sequential(_reduce(64, 96), Residual(96), Residual(96))
        self.down16 = nn.Sequential(_reduce(96, 160), Residual(160))
        self.position = nn.Parameter(torch.zeros(1, (img_size // 16) ** 2, 160))
        self.mix = nn.ModuleList(
            nn.TransformerEncoderLayer(160, 5, 320, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.up8 = nn.Conv2d(160, 96, 1)
        self.join8 = Residual(96)
        self.up4 = nn.Conv2d(96, 64, 1)
        self.join4 = nn.Sequential(Residual(64), Residual(64))
        self.neck = nn.Sequential(nn.Conv2d(64, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, 3, s, s) float, normalised and padded with 0. Returns (n, width, s / 4, s / 4)."""
        at4 = self.down4(self.stem(self.contrast(x)))  # (n, 64, s/4, s/4)
        at8 = self.down8(at4)  # (n, 96, s/8, s/8)
        at16 = self.down16(at8)  # (n, 160, s/16, s/16)
        tokens = at16.flatten(2).transpose(1, 2) + self.position  # (n, token, 160)
        for layer in self.mix:
            tokens = layer(tokens)
        at16 = tokens.transpose(1, 2).reshape(at16.shape)
        at8 = self.join8(at8 + F.interpolate(self.up8(at16), scale_factor=2.0, mode="nearest"))
        at4 = self.join4(at4 + F.interpolate(self.up4(at8), scale_factor=2.0, mode="nearest"))
        embedding: Tensor = self.neck(at4)
        return embedding


def tiny_sam() -> Sam:
    """An untrained `tiny`, in training mode: a Sam like any other, but for its size.

    Input 192 x 192, embedding (128, 48, 48) at stride 4, low-resolution masks 192 x 192, three masks a prompt.
    """
    grid = SIDE // STRIDE
    return Sam(
        image_encoder=ConvolutionalEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(grid, grid),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=256, num_heads=4),
            transformer_dim=WIDTH,
            activation=nn.ReLU,  # GELU at full resolution would take a fifth of a training step
            iou_head_depth=3,
            iou_head_hidden_dim=WIDTH,
        ),
    )


def decode_groups(
    sam: Sam,
    embedding: Tensor,
    owner: Tensor,
    points: tuple[Tensor, Tensor] | None,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `sam.mask_decoder` computes for one image, for prompt groups of many images at once.

    embedding: (n, d, h, w); owner: (g,) int64, the image that each group belongs to; points: ((g, p, 2) float x, y
    in the input frame, (g, p) labels 1 / 0); boxes: (g, 4) float; masks: (g, 1, 4h, 4w) float logits.
    Returns logits (g, 4, 4h, 4w), the single mask first, then the three; predicted IoU (g, 4).
    """
    decoder = sam.mask_decoder
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)  # (g, token, d), (g, d, h, w)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    # all in the embedding's precision, or bfloat16 training would convert back and forth at every step
    tokens = torch.cat([own.expand(len(owner), -1, -1), sparse], 1).to(embedding.dtype)
    source = embedding[owner] + dense.to(embedding.dtype)  # (g, d, h, w)
    place = sam.prompt_encoder.get_dense_pe().to(embedding.dtype).expand_as(source)
    queries, keys = decoder.transformer(source, place, tokens)
    pixels = decoder.output_upscaling(keys.transpose(1, 2).reshape(source.shape))  # (g, d / 8, 4h, 4w)
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([head(queries[:, 1 + i]) for i, head in enumerate(heads)], 1)  # (g, 4, d / 8)
    logits = (weights @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])
    return logits, decoder.iou_prediction_head(queries[:, 0])
