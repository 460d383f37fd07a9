"""The CAM branch's network: a timm ViT with one class token a class, a patch head and an auxiliary head."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoints import load_checkpoint, save_checkpoint
from models.refinements import attention_of
from models.start import Start, is_shipped, load_start, patch_positions, tiny_backbone

TINY = "tiny"
METADATA = "cam branch"  # the entry of a checkpoint that describes the network
TOKEN_NOISE = 0.02  # standard deviation; without it the copies of the class token would stay identical
UNSEEN = 0.01  # the share of attention that a patch keeps where the start sees no anomaly at all
TOP_SHARE = 0.1  # of the patches, pooled to a logit where there is no objectness to pool by


@dataclass(frozen=True)
class Evidence:
    """What the network says of a batch.

    token: (image, class) logits of the class tokens; patch: (image, class) pooled logits of the patch head;
    auxiliary: the same of the auxiliary head. patch_map, auxiliary_map: (image, class, row, column) logits a
    patch (eq. 1), before ReLU. class_token: (image, class, dim) after the last norm. valid: (image, row,
    column) bool, False for patches of padding; weight: the same, float in [0, 1], objectness there (1 without).
    attention: (image, token, token), the mean over the later half of the blocks and all heads, where it was asked for.
    """

    token: Tensor
    patch: Tensor
    auxiliary: Tensor
    patch_map: Tensor
    auxiliary_map: Tensor
    class_token: Tensor
    valid: Tensor
    weight: Tensor
    attention: Tensor | None = None


def multi_label_loss(evidence: Evidence, label: Tensor) -> Tensor:
    """Multi-label soft-margin loss, summed over the three heads; label: (image, class) float 0 or 1."""
    heads = (evidence.token, evidence.patch, evidence.auxiliary)
    return torch.stack([functional.multilabel_soft_margin_loss(logits, label) for logits in heads]).sum()


def distillation_loss(evidence: Evidence, label: Tensor, low: float, high: float) -> Tensor:
    """Teaches the patch map where objectness is sure, so that the set outvotes an image's own error.

    Objectness judges every image alone, and where a defect covers half of it, may take the bare surface for the
    defect. What a class looks like is the same in most images, and one network for all of them learns that.
    label: (image, class) 0 or 1; low, high: objectness up to which a patch is bare, from which it is defect. A
    defect patch must be called so by one of the image's classes, a bare one by none. Bare and defect patches count
    half each, an image without a class nothing. Returns a scalar.
    """
    named = label[:, :, None, None]
    defect, bare = (evidence.weight >= high) & evidence.valid, (evidence.weight <= low) & evidence.valid
    strongest = evidence.patch_map.masked_fill(named == 0, -30.0).amax(1)  # (image, row, column)
    missed = functional.softplus(-strongest)
    invented = (functional.softplus(evidence.patch_map) * named).sum(1)
    parts = [
        (loss * here).sum((1, 2)) / here.sum((1, 2)).clamp(min=1)
        for loss, here in ((missed, defect), (invented, bare))
    ]  # (image,) each
    counts = (label.sum(1) > 0).float()
    return ((parts[0] + parts[1]) / 2 * counts).sum() / counts.sum().clamp(min=1)


class ClassTokenViT(nn.Module):
    """Any timm ViT with C class tokens; its maps point at the evidence for each class."""

    def __init__(
        self,
        backbone: VisionTransformer,
        classes: int,
        *,
        name: str,
        side: int,
        start: Start | None,
        distilled: bool = False,
    ) -> None:
        """Wraps a backbone; the heads' weights are drawn from torch's generator.

        classes: C, at least 1; name: of the backbone, kept in checkpoints; side: pixels of the longer side of
        an image at scale 1; start: gives objectness, and is frozen (None: evidence may lie anywhere); distilled:
        whether the patch map has learned from objectness, so that it may contradict it.
        """
        super().__init__()
        dim = backbone.embed_dim
        self.backbone, self.name, self.side, self.classes = backbone, name, side, classes
        self.distilled = distilled
        self.start = None if start is None else start.eval().requires_grad_(False)
        token = backbone.cls_token if backbone.cls_token is not None else torch.zeros(1, 1, dim)
        copies = token.detach().repeat(1, classes, 1)  # (1, class, dim)
        self.class_token = nn.Parameter(copies + TOKEN_NOISE * torch.randn_like(copies))
        position = _token_position(backbone).repeat(1, classes, 1)
        self.class_position = nn.Parameter(position + TOKEN_NOISE * torch.randn_like(position))
        self.token_weight = nn.Parameter(torch.randn(classes, dim) / math.sqrt(dim))
        self.token_bias = nn.Parameter(torch.zeros(classes))
        self.patch_head = nn.Conv2d(dim, classes, 1, bias=False)
        self.auxiliary_head = nn.Conv2d(dim, classes, 1, bias=False)
        self.register_buffer("tau", torch.zeros(classes))
        self.tau: Tensor
        if backbone.cls_token is not None:  # its copies take its place
            backbone.cls_token.requires_grad_(False)

    @cached_property
    def as_shipped(self) -> bool:
        """Whether its start is the one that bluemask ships: an older network bears that of its time."""
        return self.start is not None and is_shipped(self.start)

    @property
    def patch_size(self) -> int:
        """Pixels a side of a patch."""
        return int(self.backbone.patch_embed.patch_size[0])  # timm's are square

    def train(self, mode: bool = True) -> ClassTokenViT:
        """Training mode, but for the start and for batch statistics, which stay frozen."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        if self.start is not None:
            self.start.eval()
        return self

    def forward(
        self,
        image: Tensor,
        valid: Tensor | None = None,
        object_map: Tensor | None = None,
        *,
        attention: bool = False,
    ) -> Evidence:
        """Classifies standardised images.

        image: (image, 3, y, x) float from `standardise`, sides multiples of the patch.
        valid: (image, y, x) bool, False in padding; None: no padding. object_map: (image, y, x) float in
        [0, 1], objectness; class tokens attend, and patches are pooled, in proportion to it; None: evenly.
        attention: whether Evidence is to hold it.
        """
        patches = self._patches(image)  # (image, row, column, dim)
        grid = (patches.shape[1], patches.shape[2])
        inside = self._pool(valid, image).bool()
        weight = inside.float() if object_map is None else self._pool(object_map, image) * inside
        seen: list[Tensor] | None = [] if attention else None
        tokens, middle = self._encode(patches, inside, weight if object_map is not None else None, seen)
        auxiliary = self.auxiliary_head(_as_map(middle, grid)).float()
        maps = self.patch_head(_as_map(tokens[:, -grid[0] * grid[1] :], grid)).float()
        class_token = tokens[:, : self.classes].float()  # (image, class, dim)
        token = (class_token * self.token_weight).sum(2) + self.token_bias
        has_objects = object_map is not None
        return Evidence(
            token, _pooled(maps, inside, weight if has_objects else None),
            _strongest(auxiliary, inside, weight), maps, auxiliary, class_token, inside, weight,
            torch.stack(seen).mean(0) if seen else None,
        )  # fmt: skip

    def _patches(self, image: Tensor) -> Tensor:
        patches: Tensor = self.backbone.patch_embed(image)
        grid = (patches.shape[1], patches.shape[2])
        if self.backbone.pos_embed is None:
            return patches
        positions = patch_positions(self.backbone, grid)  # (1, row * column, dim)
        return patches + positions.reshape(1, *grid, -1)

    def _pool(self, pixels: Tensor | None, image: Tensor) -> Tensor:
        """The largest value in each patch, (image, row, column) float; None stands for 1 everywhere."""
        if pixels is None:
            pixels = torch.ones_like(image[:, 0])
        return functional.max_pool2d(pixels[:, None].float(), self.patch_size)[:, 0]

    def _encode(
        self, patches: Tensor, inside: Tensor, weight: Tensor | None, seen: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """All blocks: (image, token, dim) after the last norm, and patches of the third block from the end.

        seen: gets the attention of the later half of the blocks.
        """
        count = patches.shape[1] * patches.shape[2]
        prefix = [(self.class_token + self.class_position).expand(len(patches), -1, -1)]
        if self.backbone.reg_token is not None:
            prefix.append(self.backbone.reg_token.expand(len(patches), -1, -1))
        tokens = self.backbone.norm_pre(torch.cat([*prefix, patches.flatten(1, 2)], 1))
        bias = self._attention_bias(inside.flatten(1), weight, tokens.shape[1])
        middle, blocks = tokens, self.backbone.blocks
        for index, block in enumerate(blocks):
            if seen is not None and index >= len(blocks) // 2:
                seen.append(attention_of(block, tokens, bias))
            tokens = block(tokens, attn_mask=None if bias is None else bias.to(tokens.dtype))
            if index == max(0, len(blocks) - 3):
                middle = tokens
        return self.backbone.norm(tokens), middle[:, -count:]

    def _attention_bias(self, inside: Tensor, weight: Tensor | None, total: int) -> Tensor | None:
        """Added to attention's logits, (image, 1, query, key).

        No token attends to padding, and class tokens attend to patches by their objectness.
        """
        if weight is None and bool(inside.all()):
            return None
        count = inside.shape[1]
        bias = torch.zeros(len(inside), 1, total, total, device=inside.device)
        bias[:, 0, :, total - count :] = torch.where(inside, 0.0, -torch.inf)[:, None]
        if weight is not None:
            bias[:, 0, : self.classes, total - count :] += (weight.flatten(1) + UNSEEN).log()[:, None]
        return bias


def _token_position(backbone: VisionTransformer) -> Tensor:
    if backbone.pos_embed is None or backbone.no_embed_class or not backbone.num_prefix_tokens:
        return torch.zeros(1, 1, backbone.embed_dim)
    return backbone.pos_embed.detach()[:, :1]


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(image, row * column, dim) to (image, dim, row, column)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def _pooled(maps: Tensor, inside: Tensor, weight: Tensor | None) -> Tensor:
    """Logits of the patch head, (image, class): the mean by objectness, or of the strongest tenth."""
    flat = maps.flatten(2)  # (image, class, patch)
    if weight is not None:
        share = ((weight + UNSEEN) * inside).flatten(1)
        return (flat * (share / share.sum(1, keepdim=True))[:, None]).sum(2)
    ranked = flat.masked_fill(~inside.flatten(1)[:, None], -torch.inf).sort(2, descending=True).values
    counts = (inside.flatten(1).sum(1) * TOP_SHARE).ceil().clamp(min=1)[:, None, None]  # (image, 1, 1)
    kept = torch.arange(flat.shape[2], device=flat.device) < counts
    return torch.where(kept, ranked, 0.0).sum(2) / counts[:, :, 0]


def _strongest(maps: Tensor, inside: Tensor, weight: Tensor) -> Tensor:
    """Max pooling, (image, class); the logarithm of objectness is a prior on where the maximum lies."""
    prior = ((weight + UNSEEN) / (1 + UNSEEN)).log().masked_fill(~inside, -torch.inf)
    return (maps + prior[:, None]).flatten(2).max(2).values


def build_vit(
    backbone: str,
    classes: int,
    *,
    side: int,
    objectness: bool,
    pretrained: str | None = None,
    seed: int = 0,
    distilled: bool = False,
) -> ClassTokenViT:
    """A network to train.

    backbone: `tiny`, which begins from the embedded start, or a timm model name. pretrained: for timm's,
    `timm` (fetched by timm), the path of a local weights file, or None (random). side: pixels, a multiple of
    the patch. objectness: let the embedded start say where evidence may lie. seed: of heads and tokens. distilled:
    whether training will teach the patch map by objectness.
    Raises ValueError for a side that does not fit, or weights that do not.
    """
    start = load_start() if objectness or backbone == TINY else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = _tiny(start) if backbone == TINY else _timm(backbone, pretrained)
        model = ClassTokenViT(
            trunk, classes, name=backbone, side=side, start=start if objectness else None,
            distilled=distilled and objectness,
        )  # fmt: skip
    if side % model.patch_size:
        raise ValueError(f"side is {side}; {backbone} needs a multiple of its patch, {model.patch_size}")
    return model


def _tiny(start: Start | None) -> VisionTransformer:
    return tiny_backbone() if start is None else copy.deepcopy(start.backbone).requires_grad_(True)


def _timm(name: str, pretrained: str | None) -> VisionTransformer:
    model = timm.create_model(name, pretrained=pretrained == "timm", num_classes=0, dynamic_img_size=True)
    if not isinstance(model, VisionTransformer):
        raise TypeError(f"backbone {name!r} is a {type(model).__name__}; name a VisionTransformer of timm")
    if pretrained not in (None, "timm"):
        _load_trunk(model, Path(pretrained))
    return model


def _load_trunk(model: VisionTransformer, path: Path) -> None:
    """Reads timm's weights of a backbone, its classifier left out; .safetensors, .pth or .pt."""
    if path.suffix == ".safetensors":
        tensors = load_checkpoint(path)[0]
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    trunk = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    try:
        model.load_state_dict(trunk)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: these are no weights of this backbone ({error}); name the right file"
        ) from error


def save_vit(path: Path, model: ClassTokenViT, about: Mapping[str, str]) -> str:
    """Writes weights, objectness and τ as safetensors with all that `load_vit` needs; returns the digest."""
    described = {
        "backbone": model.name, "classes": model.classes, "side": model.side,
        "objectness": model.start is not None, "distilled": model.distilled, "tau": model.tau.tolist(),
    }  # fmt: skip
    # one entry, since safetensors writes several in an order of chance, and equal weights must have one digest
    metadata = {METADATA: json.dumps({**about, **described}, sort_keys=True)}
    return save_checkpoint(path, model.state_dict(), metadata)


def load_vit(path: Path, device: str | torch.device = "cpu") -> ClassTokenViT:
    """A trained network in eval mode, from the file alone.

    Raises FileNotFoundError where there is no file, ValueError where it is no checkpoint of this network.
    """
    tensors, metadata = load_checkpoint(path)
    if METADATA not in metadata:
        raise ValueError(f"{path}: its metadata lack {METADATA!r}; this is no checkpoint of the CAM branch")
    about = json.loads(metadata[METADATA])
    name = str(about["backbone"])
    trunk = tiny_backbone() if name == TINY else _timm(name, None)
    start = Start() if about["objectness"] else None
    model = ClassTokenViT(
        trunk, int(about["classes"]), name=name, side=int(about["side"]), start=start,
        distilled=bool(about.get("distilled")),
    )  # fmt: skip
    model.load_state_dict(tensors)
    return model.to(device).eval().requires_grad_(False)
