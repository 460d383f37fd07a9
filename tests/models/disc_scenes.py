"""Records of small surfaces with a dark disc, which a fusion network learns in a few steps."""

import hashlib

import cv2
import numpy as np

from models.fusion_records import FusionRecipe

QUICK = FusionRecipe(min_steps=4, max_steps=4, batch=4, crop=32, crops=2)


def _features(image, cells=12):
    """Two channels: how dark a cell is, and how dark its neighbours are."""
    dark = cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA).astype(np.float32) / 50
    return np.stack([dark, cv2.blur(dark, (3, 3))]).astype(np.float16)


def surface(seed, side=48):
    """A dark disc on a bright, noisy ground; a broad CAM upon it; SAM's votes find it, but for the missed."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    cy, cx, radius = rng.integers(14, side - 14), rng.integers(14, side - 14), rng.integers(5, 9)
    distance = np.hypot(y - cy, x - cx)
    disc = distance < radius
    image = np.clip(170 - 90 * disc + rng.normal(0, 8, disc.shape), 0, 255).astype(np.uint8)
    cam = np.clip(1.4 - distance / radius / 1.4, 0, 1).astype(np.float16)
    mean = (disc & (distance < radius - 1)).astype(np.float32)
    p1 = np.where(cam >= 0.7, 1, np.where(cam <= 0.25, 0, 255)).astype(np.uint8)
    return {
        "image": np.repeat(image[..., None], 3, 2),
        "slot_class": np.ones(1, np.uint8),
        "cam": cam[None],
        "mean": mean[None],
        "entropy": np.zeros((1, side, side), np.float32),
        "p1": p1,
        "p2": mean.astype(np.uint8),
        "weight": np.ones((side, side), np.float16),
        "annotation": np.full((side, side), 255, np.uint8),
        "reliability": np.zeros(2, np.float32),
        "feature": _features(image),
        "sha256": np.frombuffer(hashlib.sha256(bytes([seed])).digest(), np.uint8),
    }, disc


RECORDS = [surface(seed)[0] for seed in range(6)]
