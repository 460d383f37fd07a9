"""Optional refinements of a CAM: class-to-patch attention, patch-to-patch affinity, the pixels' own colours.

Each is one of the literature's and off by default; what they give is measured in `bench.quality`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Pixels between a pixel and its eight neighbours, all of which are asked."""
ROUNDS = 10
SHARPNESS = 0.3
"""Of colour: the share of a neighbourhood's own standard deviation that two alike pixels may differ by."""
NEAR = 0.01
"""Weight of plain nearness beside colour."""
LEAST = 1e-4
"""Probability below which a logit is not told apart any more."""


def attention_of(block: nn.Module, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """A block's attention, averaged over its heads: (image, query, key), which fused kernels never write down.

    block: one of a timm ViT's. Raises TypeError for another kind of attention.

    tokens: (image, token, dim), what goes into the block; bias: added to the logits, (image, 1, query, key) or None.
    """
    attention, norm = block.attn, block.norm1
    if not isinstance(attention, Attention) or not isinstance(norm, nn.Module):
        raise TypeError(
            f"cam.attention and cam.affinity know timm's Attention, not {type(attention).__name__}"
        )
    shape = (*tokens.shape[:2], 3, attention.num_heads, attention.head_dim)
    q, k, _ = attention.qkv(norm(tokens)).reshape(shape).permute(2, 0, 3, 1, 4)
    logits = attention.q_norm(q) @ attention.k_norm(k).transpose(-2, -1) * attention.scale
    mean: Tensor = (logits.float() if bias is None else logits.float() + bias).softmax(-1).mean(1)
    return mean


def refined(logits: Tensor, attention: Tensor, classes: int, *, attend: bool, spread: bool) -> Tensor:
    """Patch logits after class-to-patch attention and patch-to-patch affinity.

    logits: (image, class, row, column); attention: (image, token, token), mean over blocks and heads, class tokens
    first and patches last; classes: number of class tokens. attend: multiply each class's probabilities by what its
    token attends to, its maximum being 1 (MCTformer, Xu et al. 2022). spread: then let patches that attend to each
    other agree, by one step along their mean attention in both directions. Returns logits of the same shape.
    """
    chance, count = logits.float().sigmoid().flatten(2), logits.shape[2] * logits.shape[3]
    attention = attention.float()
    with torch.autocast(
        logits.device.type, enabled=False
    ):  # in 16 bits a sure patch is 1, and its logit infinite
        if attend:
            looked = attention[:, :classes, -count:]  # (image, class, patch)
            chance = chance * looked / looked.amax(2, keepdim=True).clamp(min=1e-8)
        if spread:
            between = attention[:, -count:, -count:]
            both = between + between.transpose(1, 2)
            chance = chance @ (both / both.sum(2, keepdim=True).clamp(min=1e-8)).transpose(1, 2)
        return torch.logit(chance, LEAST).view_as(logits)


def adapted(cam: np.ndarray, image: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """Pixel-adaptive refinement (Araslanov and Roth 2020; with position, Ru et al. 2022): like colours, like values.

    cam: (class, y, x) float32 ≥ 0; image: (y, x, 3) uint8. In each round a pixel takes the mean of its neighbours at
    DILATIONS, weighted by how little their colour differs, measured by the neighbourhood's own spread. A mean of
    values exceeds none of them, so the range is kept. Returns (class, y, x) float32.
    """
    out = np.empty(cam.shape, np.float32)
    weight = _likeness(torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None].float() / 255)
    for n, one in enumerate(cam):  # class by class: 48 neighbours of all of them would be gigabytes
        values = torch.from_numpy(np.ascontiguousarray(one, np.float32))[None, None]
        for _ in range(rounds):
            values = (_neighbours(values) * weight).sum(1, keepdim=True)
        out[n] = values[0, 0].numpy()
    return out


def _likeness(colour: Tensor) -> Tensor:
    """(channel, 1, y, x) to weights (1, neighbour, y, x) that sum to 1 at each pixel."""
    around = _neighbours(colour)  # (channel, neighbour, y, x)
    spread = around.std(1, keepdim=True) + 1e-3
    apart = ((around - colour).abs() / (SHARPNESS * spread)).square().mean(0, keepdim=True)
    reach = torch.tensor(DILATIONS, dtype=torch.float32).repeat_interleave(8)
    near = (reach / (SHARPNESS * reach.std())).square()[None, :, None, None]
    weights: Tensor = functional.softmax(-apart, 1) + NEAR * functional.softmax(-near, 1)
    return weights / (1 + NEAR)


def _neighbours(x: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """(n, 1, y, x) to the eight neighbours of each pixel at each dilation, edges repeated: (n, neighbour, y, x)."""
    height, width = x.shape[2:]
    found = []
    for d in dilations:
        framed = functional.pad(x, (d, d, d, d), mode="replicate")
        found += [
            framed[:, :, d + dy : d + dy + height, d + dx : d + dx + width]
            for dy in (-d, 0, d)
            for dx in (-d, 0, d)
            if dy or dx
        ]
    return torch.cat(found, 1)
