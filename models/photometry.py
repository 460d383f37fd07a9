"""Photometric augmentation: what light, camera and polarity may change without changing the label."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


def photometric(rng: np.random.Generator, image: np.ndarray, *, invert: float = 0.0) -> np.ndarray:
    """Changes exposure, contrast, light, focus and noise at random; the geometry stays.

    image: (y, x, 3) uint8; invert: probability that dark and bright change places.
    Returns (y, x, 3) uint8.
    """
    grey = image.astype(np.float32) / 255
    if rng.random() < invert:
        grey = 1 - grey
    grey = grey ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    middle = grey.mean()
    grey = (grey - middle) * np.float32(np.exp(rng.uniform(-0.6, 0.3))) + middle
    grey = grey * _light(rng, grey.shape[:2])[..., None]
    if rng.random() < 0.25:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.3, 1.0)), np.float32)
    if rng.random() < 0.5:
        noise = rng.standard_normal(grey.shape[:2], dtype=np.float32)[..., None]
        grey = grey + np.float32(rng.uniform(0, 0.025)) * noise
    return np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8)


def _light(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A slope of light over the image: (y, x) float32 factor of mean about 1."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None]
    slope = rng.uniform(-0.25, 0.25, 2).astype(np.float32)
    return np.asarray(1 + slope[0] * y + slope[1] * x, np.float32)


class Contrast(NamedTuple):
    """Mean and standard deviation of an image's channels over its true extent, each (channel,) float32."""

    mean: np.ndarray
    deviation: np.ndarray


def contrast(image: np.ndarray) -> Contrast:
    """What brings an image to mean 0, deviation 1; deviations below 2 grey levels are noise and count as 2.

    image: (y, x, channel) uint8, true extent.
    """
    flat = image.reshape(-1, image.shape[-1]).astype(np.float32)
    return Contrast(flat.mean(0), np.maximum(flat.std(0), 2.0))
