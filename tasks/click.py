"""SAM asked by a person: masks for clicked points, from the embedding that the run has kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.augment import sam_input
from tasks.decode import Prompt, decode, view_masks
from tasks.embed import encode_views
from tasks.views import Extent, View

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def click_masks(
    model: Sam, embedding: np.ndarray, points: np.ndarray, size: Extent
) -> tuple[np.ndarray, np.ndarray]:
    """SAM's masks for points of the whole image, the likeliest first.

    embedding: (d, h, w) of the image as it is; points: (point, 3) x, y in pixels, then 1 on what is meant, 0
    beside it; size: the image's extent.
    Returns masks (choice, y, x) bool and predicted IoU (choice,) float32: three choices for a single point,
    which leaves open what is meant, one for several. Raises ValueError for points that are not such.
    """
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points of shape {points.shape}: expected (point, 3) finite numbers, at least one")
    import torch

    features = torch.from_numpy(embedding[None].astype(np.float32)).to(model.device)
    asked = Prompt(slot=0, piece=0, view=0, points=points)
    answer = decode(model, features, [asked], [size], multimask=len(points) == 1, batch=1)[0]
    order = np.argsort(-answer.iou, kind="stable")
    return view_masks(model, answer.logits, View(), size)[order], answer.iou[order]


def whole_embedding(model: Sam, image: np.ndarray, precision: str) -> np.ndarray:
    """SAM's embedding of the image as it is, for a store that keeps none: (y, x, channel=3) uint8 to (d, h, w)."""
    side = model.image_encoder.img_size
    frame = np.zeros((1, side, side, 3), np.uint8)
    extent = sam_input(image, frame[0])
    return np.asarray(encode_views(model, frame, np.array([extent]), 1, precision)[0])
