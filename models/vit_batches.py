"""Training batches of the CAM branch: augmented, letterboxed, drawn from a seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.cams import Letterbox, letterbox
from models.photometry import photometric


class Example(NamedTuple):
    """One training image: image (y, x, 3) uint8; objects (y, x) float32 in [0, 1], or None; label (class,)."""

    image: np.ndarray
    objects: np.ndarray | None
    label: np.ndarray


def augment(rng: np.random.Generator, example: Example, crop: float) -> Example:
    """A random crop, flip, quarter turn and photometric change; objectness goes through the same geometry.

    crop: smallest share of the area that is kept.
    """
    height, width = example.image.shape[:2]
    keep = np.sqrt(rng.uniform(crop, 1))
    size = (max(1, round(height * keep)), max(1, round(width * keep)))
    top, left = int(rng.integers(0, height - size[0] + 1)), int(rng.integers(0, width - size[1] + 1))
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def geometry(pixels: np.ndarray) -> np.ndarray:
        turned = np.rot90(pixels[top : top + size[0], left : left + size[1]], turns)
        return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)

    objects = None if example.objects is None else geometry(example.objects)
    return Example(photometric(rng, geometry(example.image)), objects, example.label)


def order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order of one epoch: a permutation of range(images), from the seed alone."""
    return np.random.default_rng([seed, 0, epoch]).permutation(images)


@dataclass(frozen=True)
class Batch:
    """Frames (image, 3, y, x), valid (image, y, x), objects (image, y, x) or None, label (image, class)."""

    image: Tensor
    valid: Tensor
    objects: Tensor | None
    label: Tensor


def draw(
    examples: Sequence[Example],
    step: int,
    *,
    seed: int,
    batch: int,
    crop: float,
    side: int,
    patch: int,
    device: str,
) -> Batch:
    """The batch of one step; it depends on the seed and the step alone, so nothing else need be remembered.

    batch: images; crop: smallest share of the area; side: of the square frames, pixels; patch: pixels.
    """
    count, size = len(examples), min(batch, len(examples))
    start = step * size
    chosen = [order(seed, i // count, count)[i % count] for i in range(start, start + size)]
    drawn: list[tuple[Letterbox, np.ndarray]] = []
    for place, index in enumerate(chosen):
        rng = np.random.default_rng([seed, 1, step, place])
        one = augment(rng, examples[index], crop)
        drawn.append((letterbox(one.image, one.objects, side, patch, square=True), one.label))
    seen = [box.object_map for box, _ in drawn if box.object_map is not None]
    return Batch(
        torch.cat([box.image for box, _ in drawn]).to(device),
        torch.cat([box.valid for box, _ in drawn]).to(device),
        torch.cat(seen).to(device) if seen else None,
        torch.from_numpy(np.stack([label for _, label in drawn]).astype(np.float32)).to(device),
    )
