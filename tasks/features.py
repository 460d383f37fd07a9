"""SAM's features of an image, one grid from all of its views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.views import Extent, View

if TYPE_CHECKING:
    from torch import Tensor


def mean_features(embedding: Tensor, views: Sequence[View], size: Extent) -> np.ndarray:
    """Mean over the views of their embeddings, each back in the frame of the upright, whole image.

    A convolution's answer to a turned image is not its turned answer: what is left of the mean is what all views see, and
    it decides better what is a defect than the upright view's alone.
    embedding: (view, d, h, w) float32, of square inputs that the longer side of a view's image spans; views: (view,);
    size: the image's extent. Returns (d, h, w) float16, the image's longer side spanning all cells; 0 in cells beyond it.
    """
    import torch
    from torch.nn import functional

    cells = (embedding.shape[2], embedding.shape[3])
    pixel = max(size) / cells[0]  # pixels a cell
    row, column = np.indices(cells, np.float64)
    # cells that the image's border cuts are looked up at its last pixels, which are judged by them too
    x, y = (np.minimum((n + 0.5) * pixel - 0.5, most - 1) for n, most in ((column, size[1]), (row, size[0])))
    centre = np.stack([x, y], -1)  # (h, w, 2) x, y
    inside = (column * pixel < size[1]) & (row * pixel < size[0])
    total = embedding.new_zeros((embedding.shape[1], *cells))
    count = embedding.new_zeros(cells)
    for one, view in zip(embedding, views, strict=True):
        window = view.shown(size)
        x, y = centre[..., 0] - window.left, centre[..., 1] - window.top
        seen = inside & (x > -0.5) & (y > -0.5) & (x < window.width - 0.5) & (y < window.height - 0.5)
        # grid_sample's frame: −1 and 1 are the outer edges of the square input
        place = 2 * (view.apply_points(centre, size) + 0.5) / max(view.extent(size)) - 1
        grid = torch.from_numpy(place).to(embedding)[None]
        found = functional.grid_sample(one[None], grid, padding_mode="border", align_corners=False)[0]
        shown = torch.from_numpy(seen).to(embedding)
        total += found * shown
        count += shown
    return np.asarray((total / count.clamp(min=1)).half().cpu().numpy())
