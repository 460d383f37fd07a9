"""The embedded start: a small ViT with a convolutional stem that tells defects from bare surface.

Nothing pretrained can be had on a closed machine, and a transformer learns little from a few hundred labels.
So this network has learned, on procedural surfaces alone, which pixels are anomalous ("objectness") and which
kind of defect a patch shows. Its trunk starts `tiny` backbones; its objectness, frozen, tells the CAM branch
where evidence for a class may lie at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoints import load_checkpoint
from models.sam_shapes import START_WEIGHTS

EMBEDDED = START_WEIGHTS
WIDTH, DEPTH, HEADS, PATCH, SIDE = 192, 4, 3, 8, 128
KINDS = 5  # kinds of procedural defect; 0 of the kind head's 1 + KINDS classes is bare surface
CONTRAST_FLOOR = 0.02  # standard deviation, of grey values in [0, 1], below which noise is not blown up
MULTIPLE = 16  # pixels: sides that the network sees are rounded up to this
SCALES = (1.0, 0.75, 0.5, 0.35)
"""Of an image: the start learned on 128² to 256², and sees thin defects from near, large faint ones from afar. Without 1.0, IoU on 35
procedural surfaces of 200² was 0.795 in place of 0.854, of 320² 0.846 in place of 0.852; by labels, the maximum told magnetic tiles of a
class from good ones a little better without it (mean AUROC over classes 0.754, with it 0.745)."""


def standardise(image: Tensor, valid: Tensor | None = None) -> Tensor:
    """Takes brightness, tint and contrast out of each image, so that lighting says nothing of its class.

    image: (image, 3, y, x) float in [0, 1]; valid: (image, y, x) bool, False in padding (None: no padding).
    Returns the same shape: mean 0 in each channel, standard deviation 1 over channels, 0 in padding.
    """
    inside = torch.ones_like(image[:, :1]) if valid is None else valid[:, None].to(image.dtype)
    count = inside.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (image * inside).sum((2, 3), keepdim=True) / count  # (image, channel, 1, 1)
    centred = (image - mean) * inside
    variance = centred.square().sum((1, 2, 3), keepdim=True) / (3 * count)
    return centred / (variance.sqrt() + CONTRAST_FLOOR)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # batch statistics are frozen after the start's training, so that padding and neighbours never matter
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3×3 convolutions around a shortcut; (image, channel, y, x) in and out."""

    def __init__(self, width: int) -> None:
        """width: channels."""
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """Adds what it sees in a 5×5 neighbourhood."""
        changed: Tensor = self.body(features)
        return features + changed


class ConvStem(nn.Module):
    """Patch embedding by convolutions, which learn from scratch much faster than one 8×8 projection."""

    def __init__(self, img_size: int, patch_size: int, embed_dim: int, **_: object) -> None:
        """Takes what timm's VisionTransformer hands to its `embed_layer`; patch_size must be 8."""
        super().__init__()
        if patch_size != PATCH:
            raise ValueError(f"patch_size is {patch_size}; the convolutional stem has stride {PATCH}")
        self.patch_size = (PATCH, PATCH)
        self.grid_size = (img_size // PATCH, img_size // PATCH)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.stride2 = nn.Sequential(_convolution(3, 32, 2), _convolution(32, 32))
        self.stride4 = nn.Sequential(_convolution(32, 64, 2), Residual(64), Residual(64))
        self.stride8 = nn.Sequential(_convolution(64, 128, 2), Residual(128), nn.Conv2d(128, embed_dim, 1))

    def pyramid(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image, 3, y, x) to features at strides 2, 4 and 8, of 32, 64 and `embed_dim` channels."""
        half = self.stride2(image)
        quarter = self.stride4(half)
        return half, quarter, self.stride8(quarter)

    def forward(self, image: Tensor) -> Tensor:
        """(image, 3, y, x) to patch tokens (image, row, column, embed_dim)."""
        return self.pyramid(image)[2].permute(0, 2, 3, 1)


def tiny_backbone() -> VisionTransformer:
    """The trunk of `tiny`: a timm ViT of width 192 and 4 blocks behind a convolutional stem of stride 8."""
    return VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        num_classes=0, global_pool="", embed_layer=ConvStem,
    )  # fmt: skip


def patch_positions(backbone: VisionTransformer, grid: tuple[int, int]) -> Tensor:
    """The backbone's position embeddings of its patches, interpolated to `grid` rows and columns.

    Returns (1, row * column, dim).
    """
    if backbone.pos_embed is None:
        raise ValueError("this backbone has no absolute position embeddings; name one that has")
    prefix = 0 if backbone.no_embed_class else backbone.num_prefix_tokens
    old = backbone.patch_embed.grid_size
    fitted: Tensor = resample_abs_pos_embed(
        backbone.pos_embed[:, prefix:], new_size=list(grid), old_size=old, num_prefix_tokens=0
    )
    return fitted


class Start(nn.Module):
    """Objectness and kind of defect, from one image alone."""

    def __init__(self) -> None:
        """Random weights; `load_start` reads the trained ones."""
        super().__init__()
        self.backbone = tiny_backbone()
        self.kind = nn.Linear(WIDTH, 1 + KINDS)
        self.context = nn.Conv2d(WIDTH, 64, 1)
        self.fine = nn.Sequential(_convolution(128, 96), _convolution(96, 64))
        self.finer = nn.Sequential(_convolution(16 + 32, 32), nn.Conv2d(32, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Judges standardised images.

        image: (image, 3, y, x) float from `standardise`, sides multiples of 8.
        Returns logits of "this is a defect" at stride 2, (image, y/2, x/2), and logits of its kind a patch,
        (image, y/8, x/8, 1 + KINDS).
        """
        half, quarter, eighth = self.backbone.patch_embed.pyramid(image)
        grid = (eighth.shape[2], eighth.shape[3])
        tokens = eighth.flatten(2).transpose(1, 2) + patch_positions(self.backbone, grid)
        tokens = self.backbone.norm(self.backbone.blocks(tokens))  # (image, patch, dim)
        kinds = self.kind(tokens).unflatten(1, grid)
        context = self.context(tokens.transpose(1, 2).unflatten(2, grid))
        wide = functional.interpolate(context, scale_factor=2.0, mode="bilinear", align_corners=False)
        fine = functional.pixel_shuffle(self.fine(torch.cat([wide, quarter], 1)), 2)  # (image, 16, y/2, x/2)
        return self.finer(torch.cat([fine, half], 1))[:, 0], kinds


def load_start(path: Path | None = None, device: str | torch.device = "cpu") -> Start:
    """The trained start, frozen and in eval mode; path None: the weights that bluemask ships.

    Raises FileNotFoundError or ValueError (see `load_checkpoint`) where the file is absent or not whole.
    """
    tensors, _ = load_checkpoint(path or EMBEDDED)
    start = Start()
    start.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return start.to(device).eval().requires_grad_(False)


def is_shipped(start: Start) -> bool:
    """Whether a start has the very weights that bluemask ships."""
    shipped, own = load_start().state_dict(), start.state_dict()
    return all(torch.equal(tensor, own[name].cpu()) for name, tensor in shipped.items())


def _padded(image: Tensor) -> Tensor:
    """Reflects at the right and bottom edge up to a multiple of `MULTIPLE`; (1, 3, y, x)."""
    height, width = image.shape[2:]
    bottom, right = -height % MULTIPLE, -width % MULTIPLE
    mode = "reflect" if bottom < height and right < width else "replicate"
    return functional.pad(image, (0, right, 0, bottom), mode=mode)


def _at_scale(image: Tensor, scale: float) -> Tensor:
    height, width = image.shape[2:]
    size = (max(MULTIPLE, round(height * scale)), max(MULTIPLE, round(width * scale)))
    if size == (height, width):
        return image
    return functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def _one_scale(start: Start, image: Tensor, scale: float, flip: bool) -> Tensor:
    """Objectness at one scale, back at the image's own size: (y, x) float32 in [0, 1]."""
    small = standardise(_at_scale(image, scale))
    views = _padded(torch.cat([small, small.flip(3)]) if flip else small)
    logits = start(views)[0].float()[:, None]  # (view, 1, y/2, x/2)
    full = functional.interpolate(logits, views.shape[2:], mode="bilinear", align_corners=False)
    full = full[:, :, : small.shape[2], : small.shape[3]]
    mean = (full[:1] + full[1:].flip(3)) / 2 if flip else full
    return functional.interpolate(mean, image.shape[2:], mode="bilinear", align_corners=False)[0, 0]


@torch.no_grad()
def objectness(
    start: Start,
    image: np.ndarray,
    *,
    scales: Sequence[float] = SCALES,
    flip: bool = True,
    longest: int = 512,
    precision: str = "float32",
) -> np.ndarray:
    """Where an image shows an anomaly, whatever its class.

    image: (y, x, 3) uint8. scales: of the image's own size, whose logits are averaged; longest: pixels, a
    larger image is first shrunk so that its longer side is this. flip: average with the mirrored image.
    precision: float32 or bfloat16 (autocast). Returns (y, x) float32 in [0, 1].
    """
    device = next(start.parameters()).device
    pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float() / 255
    limit = min(1.0, longest / max(image.shape[:2]))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = [_one_scale(start, pixels, limit * scale, flip) for scale in scales]
    mean = torch.stack(logits).mean(0)
    return torch.sigmoid(mean).float().cpu().numpy()
