"""Features of all views come together where they belong."""

import numpy as np
import pytest
import torch

from tasks.features import mean_features
from tasks.views import View

VIEWS = [View(flip, turns) for flip in (False, True) for turns in range(4)]
CELLS = 32


def embedded(view, size, seed=None):
    """An encoder that is exact: each cell holds x and y of its centre, in pixels of the image's frame."""
    side = max(view.extent(size))
    row, column = np.indices((CELLS, CELLS), np.float64)
    centre = np.stack([(column + 0.5) / CELLS * side - 0.5, (row + 0.5) / CELLS * side - 0.5], -1)
    return torch.from_numpy(np.moveaxis(view.invert_points(centre, size), -1, 0)).float()


def expected(size):
    row, column = np.indices((CELLS, CELLS), np.float64)
    pixel = max(size) / CELLS
    place = np.stack([(column + 0.5) * pixel - 0.5, (row + 0.5) * pixel - 0.5])
    inside = (column * pixel < size[1]) & (row * pixel < size[0])  # a part of the cell is
    return np.minimum(place, np.reshape(size[::-1], (2, 1, 1)) - 1), inside


@pytest.mark.parametrize("size", [(64, 64), (64, 40), (37, 90)])
@pytest.mark.parametrize("view", [*VIEWS, View(True, 1, 0.5, 5), View(False, 0, 0.5)])
def test_a_view_comes_back_to_the_images_frame(view, size):
    found = mean_features(embedded(view, size)[None], [view], size)
    place, inside = expected(size)
    assert found.dtype == np.float16
    # a cell at the border of a view's square is its outermost one: there is nothing beyond to interpolate
    slack = max(size) / CELLS * 1.1
    assert np.abs(found - place)[:, inside].max() < slack
    assert np.abs(found - place)[:, inside].mean() < 0.2 * slack
    assert (found[:, ~inside] == 0).all()


def test_quadrants_fill_what_they_show_and_all_views_count_alike():
    size, quadrants = (80, 80), [View(window=w, scale=2) for w in range(1, 5)]
    found = mean_features(torch.stack([embedded(view, size) for view in quadrants]), quadrants, size)
    place, _ = expected(size)
    assert np.abs(found - place).max() < 2.5
    upper = mean_features(embedded(quadrants[0], size)[None], quadrants[:1], size)
    shown = (place[0] < 47.5) & (place[1] < 47.5)
    assert (upper[:, ~shown] == 0).all()
    assert upper[:, shown].any(0).all()
    views = [View(), View(True)]
    both = mean_features(torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)]), views, size)
    assert (both == 0.5).all()
