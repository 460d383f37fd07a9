"""What `tiny` SAM is trained on: a pool of procedural frames, and batches of prompts drawn from it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.clicks import loose_box, negative_points, positive_points
from models.defects import Mask
from models.sam_shapes import SIDE
from models.surfaces import generate
from models.textures import Random

CHUNK = 250  # frames that a process draws at a time
DRAWN = (0.5, 0.6, 0.8, 1.25, 1.5)
"""Sizes at which frames are drawn that are not drawn at SIDE, as shares of it."""
POINT_COUNTS = (1, 2, 3, 4, 5, 6, 8)
POINT_SHARES = (0.18, 0.12, 0.34, 0.12, 0.08, 0.06, 0.10)


@dataclass(frozen=True)
class Pool:
    """Frames kept in memory.

    frames: (n, y, x, 3) uint8, image at the top left, 0 beside it; pieces: (n, y, x) uint8, 0 or 1 + the piece;
    kinds: (n, 32) uint8, 1 + the kind of each piece, 0 where there is none; sizes: (n, 2) int64 height, width.
    """

    frames: NDArray[np.uint8]
    pieces: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One step's images and prompt groups, all groups of one shape.

    frames: (n, y, x, 3) uint8; sizes: (n, 2) int64; owner: (g,) int64, the image of each group; points: (g, p, 2)
    float32 x, y; labels: (g, p) float32 1 / 0; boxes: (g, 4) float32 or None; targets: (g, y, x) uint8 0 / 1;
    anything: (n, y, x) uint8, 1 on every defect.
    """

    frames: Tensor
    sizes: Tensor
    owner: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor | None
    targets: Tensor
    anything: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def moved(tensor: Any) -> Any:
            return None if tensor is None else tensor.to(device)

        return Batch(**{field.name: moved(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """The batches of a training by step, each drawn from (seed, step) alone: any process can draw any of them.

    images: a batch; groups: an image.
    """

    pool: Pool
    seed: int
    images: int
    groups: int

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        cv2.setNumThreads(1)  # the processes share the cores already
        return draw_batch(np.random.default_rng((self.seed, step)), self.pool, self.images, self.groups)


def draw_frame(seed: int) -> Pool:
    """One procedural image as SAM would be given it: another size, resized to SIDE and padded; a pool of one.

    Six in ten images are drawn at SIDE, the others smaller or larger and resized; a fifth are not square; a
    tenth fill only a part of the frame, as views at scale 0.5 do; of a fifth only a quarter is seen, as of views at
    scale 2.
    """
    rng = np.random.default_rng((seed, 1))
    side = SIDE if rng.random() < 0.6 else round(SIDE * rng.choice(DRAWN))
    narrow = float(rng.uniform(0.35, 1.0)) if rng.random() < 0.2 else 1.0
    drawn = (side, max(16, round(side * narrow)))
    surface = generate(seed, size=drawn if rng.random() < 0.5 else drawn[::-1])
    image, instances = surface.image, surface.instances
    if rng.random() < 0.2:
        first = [int(rng.integers(0, n - n // 2 + 1)) for n in image.shape[:2]]
        rows, columns = (slice(i, i + n // 2) for i, n in zip(first, image.shape[:2], strict=True))
        image, instances = image[rows, columns], instances[:, rows, columns]
    longest = int(rng.integers(SIDE // 3, SIDE)) if rng.random() < 0.1 else SIDE
    seen = max(image.shape[:2])
    height, width = (max(1, round(n * longest / seen)) for n in image.shape[:2])
    how = cv2.INTER_AREA if longest < seen else cv2.INTER_LINEAR
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[:height, :width] = cv2.resize(image, (width, height), interpolation=how)
    pieces, kinds = np.zeros((SIDE, SIDE), np.uint8), np.zeros(32, np.uint8)
    for i, mask in enumerate(instances[:32]):
        small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=how) >= 0.5
        if small.sum() >= 4:
            pieces[:height, :width][small], kinds[i] = i + 1, surface.kinds[i] + 1
    return Pool(frame[None], pieces[None], kinds[None], np.array([[height, width]]))


def _draw_frames(seeds: range) -> Pool:
    cv2.setNumThreads(1)  # the processes share the cores already
    return _join([draw_frame(seed) for seed in seeds])


def _join(pools: list[Pool]) -> Pool:
    return Pool(
        np.concatenate([p.frames for p in pools]),
        np.concatenate([p.pieces for p in pools]),
        np.concatenate([p.kinds for p in pools]),
        np.concatenate([p.sizes for p in pools]),
    )


def draw_pool(first_seed: int, count: int, workers: int) -> Pool:
    """Frames of the seeds first_seed .. first_seed + count - 1 (seeds of frames without a piece are left out).

    workers: processes to draw with. The result does not depend on it.
    """
    end = first_seed + count
    chunks = [range(seed, min(seed + CHUNK, end)) for seed in range(first_seed, end, CHUNK)]
    if workers <= 1:
        pool = _join([_draw_frames(chunk) for chunk in chunks])
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            pool = _join(list(executor.map(_draw_frames, chunks)))
    useful = pool.kinds.any(1)
    return Pool(pool.frames[useful], pool.pieces[useful], pool.kinds[useful], pool.sizes[useful])


def draw_batch(rng: Random, pool: Pool, images: int, groups: int) -> Batch:
    """A batch of `images` frames, flipped, turned and re-exposed, with `groups` prompt groups each.

    All groups have the same number of points, and all of them a box or none (the decoder wants equal shapes).
    """
    count = int(rng.choice(POINT_COUNTS, p=POINT_SHARES))
    boxed = bool(rng.random() < 0.12)
    chosen = rng.choice(len(pool.frames), images, replace=False)
    turned = [_turned(rng, pool.frames[i], pool.pieces[i], pool.sizes[i]) for i in chosen]
    frames, pieces, sizes = zip(*turned, strict=True)
    owner = np.repeat(np.arange(images), groups)
    drawn = [_draw_group(rng, pieces[i], pool.kinds[chosen[i]], sizes[i], count) for i in owner]
    targets = np.stack([mask for mask, _, _ in drawn])  # (g, y, x)
    boxes = np.stack([loose_box(rng, mask) for mask in targets]) if boxed else None
    return Batch(
        frames=torch.from_numpy(np.stack(frames)),
        sizes=torch.from_numpy(np.array(sizes)),
        owner=torch.from_numpy(owner),
        points=torch.from_numpy(np.stack([points for _, points, _ in drawn])),
        labels=torch.from_numpy(np.stack([labels for _, _, labels in drawn])),
        boxes=None if boxes is None else torch.from_numpy(boxes),
        targets=torch.from_numpy(targets.astype(np.uint8)),
        anything=torch.from_numpy((np.stack(pieces) > 0).astype(np.uint8)),
    )


def _turned(
    rng: Random, frame: NDArray[np.uint8], pieces: NDArray[np.uint8], size: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int]]:
    """One of the eight flips and turns of the true extent, back at the top left; and another exposure."""
    turns, flip = int(rng.integers(0, 4)), bool(rng.integers(0, 2))
    image, label = frame[: size[0], : size[1]], pieces[: size[0], : size[1]]
    image, label = np.rot90(image, turns), np.rot90(label, turns)
    if flip:
        image, label = image[:, ::-1], label[:, ::-1]
    height, width = label.shape
    levels = np.arange(256, dtype=np.float32)
    if rng.random() < 0.2:
        levels = 255 - levels
    if rng.random() < 0.6:
        gamma, gain = np.exp(rng.normal(0, 0.25)), rng.uniform(0.6, 1.25)
        levels = 255 * gain * (levels / 255) ** gamma + rng.uniform(-15, 15)
    new_frame, new_pieces = np.zeros_like(frame), np.zeros_like(pieces)
    new_frame[:height, :width] = np.clip(levels, 0, 255).astype(np.uint8)[image]
    new_pieces[:height, :width] = label
    return new_frame, new_pieces, (height, width)


def _draw_group(
    rng: Random, pieces: NDArray[np.uint8], kinds: NDArray[np.uint8], size: tuple[int, int], count: int
) -> tuple[Mask, NDArray[np.float32], NDArray[np.float32]]:
    """The target of one prompt group, its (count, 2) points and their (count,) labels."""
    chosen = _choose_pieces(rng, kinds, count)
    target = np.isin(pieces, [i + 1 for i in chosen])
    negatives = int(rng.integers(1, count // 2 + 1)) if count >= 3 and rng.random() < 0.35 else 0
    negatives = min(negatives, count - len(chosen))
    # every chosen piece gets a point; what is left falls where it may
    points = [positive_points(rng, pieces == i + 1, 1) for i in chosen]
    points.append(positive_points(rng, target, count - negatives - len(chosen)))
    if count - negatives >= 3 and rng.random() < 0.06:  # a click beside the defect
        points[0] = points[0] + rng.normal(0, 2.5, (1, 2)).astype(np.float32)
    points.append(negative_points(rng, target, size, negatives))
    labels = np.ones(count, np.float32)
    labels[count - negatives :] = 0
    return target, np.concatenate(points), labels


def _choose_pieces(rng: Random, kinds: NDArray[np.uint8], count: int) -> list[int]:
    """Mostly one piece; sometimes several of one kind, as when a CAM's component covers them all."""
    first = int(rng.choice(np.flatnonzero(kinds)))
    alike = np.flatnonzero(kinds == kinds[first])
    if count < 2 or len(alike) < 2 or rng.random() > 0.12:
        return [first]
    several = int(rng.integers(2, min(len(alike), count, 4) + 1))
    return [int(i) for i in rng.choice(alike, several, replace=False)]
