"""Outlines of probabilities on the image's edges."""

import numpy as np
import pytest

from models import guided as module
from models.guided import guided, radius_of


def scene(seed=0, size=(60, 80)):
    """A noisy image with a brighter disc, and probabilities of another, shifted and blurred disc."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(size)
    disc = (y - 30) ** 2 + (x - 40) ** 2 < 18**2
    image = np.where(disc[..., None], [150, 120, 90], [90, 100, 110]) + rng.normal(0, 4, (*size, 3))
    away = np.hypot(y - 31, x - 42) - 18
    share = (1 / (1 + np.exp(away / 1.5))).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), np.stack([1 - share, share]), disc


def iou(share, disc):
    found = share[1] > share[0]
    return (found & disc).sum() / (found | disc).sum()


def test_an_outline_comes_nearer_to_the_edge():
    image, share, disc = scene()
    assert iou(guided(share, image, 3), disc) > iou(share, disc) + 0.04


def test_sums_and_bounds_are_kept_and_what_is_even_stays():
    image, share, _ = scene()
    found = guided(share, image, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found.min() >= 0
    even = np.full_like(share, 0.5)
    np.testing.assert_allclose(guided(even, image, 2), even, atol=1e-4)


def test_an_image_without_an_edge_gives_the_mean_of_means():
    _, share, _ = scene()
    flat = np.full((60, 80, 3), 77, np.uint8)
    twice = module._box(module._box(np.ascontiguousarray(share[1][..., None]), 2), 2)[..., 0]
    np.testing.assert_allclose(guided(share, flat, 2)[1], twice, atol=1e-4)


@pytest.mark.parametrize("side", [16, 23])
def test_tiles_equal_the_whole(monkeypatch, side):
    image, share, _ = scene()
    whole = guided(share, image, 2)
    monkeypatch.setattr(module, "TILE", side)
    np.testing.assert_allclose(guided(share, image, 2), whole, atol=1e-5)


def test_it_is_the_regression_that_it_says():
    """Against the definition: in each window a least-squares fit with a ridge, then the mean of all fits on a pixel."""
    rng = np.random.default_rng(3)
    image, share = rng.integers(0, 256, (9, 8, 3), np.uint8), rng.random((1, 9, 8), np.float32)
    both = np.concatenate([share, 1 - share])
    norm = module.contrast(image)
    colour = (image - norm.mean) / norm.deviation
    r = 1
    framed = np.pad(colour, ((r, r), (r, r), (0, 0)), mode="symmetric")
    said = np.pad(share[0], r, mode="symmetric")
    fits = np.zeros((9, 8, 4))
    for y, x in np.ndindex(9, 8):
        i, p = framed[y : y + 3, x : x + 3].reshape(-1, 3), said[y : y + 3, x : x + 3].ravel()
        centred = i - i.mean(0)
        slope = np.linalg.solve(centred.T @ centred / 9 + module.FLAT * np.eye(3), centred.T @ p / 9)
        fits[y, x] = [*slope, p.mean() - slope @ i.mean(0)]
    framed = np.pad(fits, ((r, r), (r, r), (0, 0)), mode="symmetric")
    mean = np.mean([framed[dy : dy + 9, dx : dx + 8] for dy in range(3) for dx in range(3)], 0)
    expected = (mean[..., :3] * colour).sum(-1) + mean[..., 3]
    other = 1 - expected  # sums are kept
    clipped = np.clip(np.stack([expected, other]), 0, None)
    np.testing.assert_allclose(guided(both, image, r), clipped / clipped.sum(0), atol=2e-4)


@pytest.mark.parametrize(
    ("size", "cells", "radius"),
    [
        ((200, 200), (48, 48), 2),
        ((256, 100), (48, 48), 2),
        ((1024, 768), (64, 64), 6),
        ((20, 20), (48, 48), 1),
    ],
)
def test_the_window_is_as_wide_as_sams_masks_are_coarse(size, cells, radius):
    assert radius_of(size, cells) == radius
