"""Outlines of probabilities on the image's edges."""

import cv2
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


def test_an_image_without_an_edge_changes_nothing():
    _, share, _ = scene()
    np.testing.assert_allclose(guided(share, np.full((60, 80, 3), 77, np.uint8), 2), share, atol=1e-6)


@pytest.mark.parametrize("contrast", [0, 3, 5, 10, 20])
def test_a_thin_line_that_the_image_hardly_shows_stays(contrast):
    rng = np.random.default_rng(0)
    grey = 120 + rng.normal(0, 5, (96, 96))
    grey[40:42, 10:85] -= contrast
    line = np.full((96, 96), 0.05, np.float32)
    line[40:42, 10:85] = 0.9
    image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, -1)
    found = guided(np.stack([1 - line, line]), image, 2)
    assert (found[1] > 0.5)[line > 0.5].mean() > 0.9
    assert not (found[1] > 0.5)[line < 0.5].any()


def test_nothing_is_surer_than_what_lies_round_about():
    image, share, _ = scene()
    inside = (share[1] > 0.5).astype(np.float32)
    share = 0.1 + 0.8 * np.stack([1 - inside, inside])
    found = guided(share, image, 3)
    near = np.ones((7, 7), np.uint8)
    for now, before in zip(found, share, strict=True):
        assert (now >= cv2.erode(before, near) - 1e-6).all()
        assert (now <= cv2.dilate(before, near) + 1e-6).all()


def test_several_classes_stay_probabilities():
    image, share, _ = scene()
    other = np.roll(share[1], 9, 1) * (1 - share[1])
    three = np.stack([share[0] - np.minimum(other, share[0]), share[1], np.minimum(other, share[0])])
    found = guided(three, image, 2)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found.min() >= 0
    assert (found.argmax(0) != three.argmax(0)).any()


@pytest.mark.parametrize("side", [16, 23])
def test_tiles_equal_the_whole(monkeypatch, side):
    image, share, _ = scene()
    whole = guided(share, image, 2)
    monkeypatch.setattr(module, "TILE", side)
    np.testing.assert_allclose(guided(share, image, 2), whole, atol=1e-5)


@pytest.mark.parametrize("kind", ["colour", "grey", "a small strong defect, grey"])
def test_it_is_the_regression_that_it_says(kind):
    """Against the definition: in each window a least-squares fit with a ridge, then the mean of all fits on a pixel."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (9, 8, 3), np.uint8)
    if kind != "colour":
        image = np.repeat(image[..., :1], 3, -1)
    if kind.startswith("a small"):
        image = np.repeat(77 + (rng.random((24, 24, 1)) < 0.1).astype(np.uint8), 3, -1)
        image[10:13, 11:14] = 255
    size, r = image.shape[:2], 1
    share = rng.random(size, np.float32)
    norm = module.contrast(image)
    colour = ((image - norm.mean) / norm.deviation).astype(np.float64)
    framed = np.pad(colour, ((r, r), (r, r), (0, 0)), mode="symmetric")
    said = np.pad(share, r, mode="symmetric").astype(np.float64)
    fits, told = np.zeros((*size, 4)), np.zeros(size)
    for y, x in np.ndindex(*size):
        i, p = framed[y : y + 3, x : x + 3].reshape(-1, 3), said[y : y + 3, x : x + 3].ravel()
        centred = i - i.mean(0)
        slope = np.linalg.solve(centred.T @ centred / 9 + module.FLAT * np.eye(3), centred.T @ p / 9)
        fits[y, x] = [*slope, p.mean() - slope @ i.mean(0)]
        told[y, x] = np.sqrt(1 - np.var(p - centred @ slope) / np.var(p))

    def mean(values):
        padded = np.pad(values, [(r, r), (r, r)] + [(0, 0)] * (values.ndim - 2), mode="symmetric")
        return np.mean([padded[a : a + size[0], b : b + size[1]] for a in range(3) for b in range(3)], 0)

    fit, weight = mean(fits), mean(told)
    fitted = (fit[..., :3] * colour).sum(-1) + fit[..., 3]
    near = np.lib.stride_tricks.sliding_window_view(said, (3, 3))
    expected = np.clip(fitted, near.min((-2, -1)), near.max((-2, -1))) * weight + (1 - weight) * share
    found = guided(np.stack([share, 1 - share]), image, r)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_the_smallest_images_pass(size):
    rng = np.random.default_rng(1)
    share = rng.random(size, np.float32)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    found = guided(np.stack([share, 1 - share]), image, radius_of(size, (48, 48)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


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
