"""Clicks fall where they should."""

import numpy as np
import pytest

from models.clicks import loose_box, negative_points, positive_points, random_points


@pytest.fixture
def mask():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:70] = True
    return mask


def on(mask, points):
    x, y = np.clip(np.floor(points + 0.5).astype(int).T, 0, [[mask.shape[1] - 1], [mask.shape[0] - 1]])
    return mask[y, x]


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_positive_points_lie_on_the_mask(mask, count):
    for seed in range(20):
        points = positive_points(np.random.default_rng(seed), mask, count)
        assert points.shape == (count, 2)
        assert points.dtype == np.float32
        assert on(mask, points).all()


def test_more_points_than_pixels_repeat_pixels():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert on(mask, positive_points(np.random.default_rng(0), mask, 5)).all()
    assert (random_points(np.random.default_rng(0), mask, 5) == 4).all()


def test_random_points_cover_the_mask_evenly(mask):
    points = random_points(np.random.default_rng(0), mask, mask.sum())
    assert len(np.unique(points, axis=0)) == mask.sum()


def test_negative_points_lie_outside_the_mask_and_inside_the_image(mask):
    for seed in range(20):
        points = negative_points(np.random.default_rng(seed), mask, (50, 75), 4)
        assert not on(mask, points).any()
        assert (points < [75, 50]).all()


def test_a_mask_that_fills_the_image_leaves_only_itself_to_click_on():
    full = np.ones((10, 10), bool)
    assert negative_points(np.random.default_rng(0), full, (10, 10), 3).shape == (3, 2)


def test_a_loose_box_is_near_the_true_one(mask):
    for seed in range(20):
        box = loose_box(np.random.default_rng(seed), mask)
        assert (np.abs(box - [30, 20, 69, 39]) <= [4.9, 2.9, 4.9, 2.9]).all()
