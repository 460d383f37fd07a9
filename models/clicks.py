"""Prompts as a person or a CAM would give them: points on, near and off the pieces of a mask."""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.defects import Mask
from models.textures import Random

Points = NDArray[np.float32]


def positive_points(rng: Random, mask: Mask, count: int) -> Points:
    """Points inside a mask: anywhere, deep inside, or at its border.

    mask: (y, x) bool with at least one pixel. Returns (count, 2) float32 x, y in the mask's frame, each
    within half a pixel of the centre of a pixel of the mask.
    """
    y, x = np.nonzero(mask)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1][y, x]
    weights = np.stack([np.ones_like(depth), depth**2, (depth < 1.5) + 1e-6])
    weights /= weights.sum(1, keepdims=True)
    habit = rng.choice(3, p=(0.6, 0.3, 0.1))
    taken = rng.choice(len(y), count, replace=len(y) < count, p=weights[habit])
    points = np.stack([x[taken], y[taken]], 1)  # (count, 2)
    return np.asarray(points + rng.uniform(-0.5, 0.5, points.shape), np.float32)


def random_points(rng: Random, mask: Mask, count: int) -> Points:
    """Points drawn evenly over the pixels of a mask, at pixel centres: what the measurements use.

    mask: (y, x) bool with at least one pixel. Returns (count, 2) float32 x, y; a pixel twice only where the
    mask has fewer than `count`.
    """
    y, x = np.nonzero(mask)
    taken = rng.choice(len(y), count, replace=len(y) < count)
    return np.stack([x[taken], y[taken]], 1).astype(np.float32)


def negative_points(rng: Random, mask: Mask, extent: tuple[int, int], count: int) -> Points:
    """Points outside a mask: half of them close to it, the others anywhere in the image.

    mask: (y, x) bool; extent: (height, width) of the image within the frame. Returns (count, 2) float32 x, y.
    """
    reach = 2 * int(rng.integers(2, 10)) + 1
    near = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    inside = np.zeros_like(mask)
    inside[: extent[0], : extent[1]] = True
    ring, rest = near & ~mask & inside, ~mask & inside
    chosen = ring if rng.random() < 0.5 and ring.any() else rest
    return random_points(rng, chosen if chosen.any() else inside, count)


def loose_box(rng: Random, mask: Mask) -> Points:
    """The box round a mask, each side shifted by up to a tenth of its length plus a pixel.

    mask: (y, x) bool with at least one pixel. Returns (4,) float32 x0, y0, x1, y1 within the frame.
    """
    y, x = np.nonzero(mask)
    box = np.array([x.min(), y.min(), x.max(), y.max()], np.float32)
    reach = 1 + 0.1 * np.tile([box[2] - box[0], box[3] - box[1]], 2)
    limit = np.tile([mask.shape[1] - 1, mask.shape[0] - 1], 2)
    return np.clip(box + rng.uniform(-1, 1, 4) * reach, 0, limit).astype(np.float32)
