"""Figures by which a trained network is compared with the one before, from image-level labels and agreement alone.

None of them reads a mask: they cannot tell how good a label is, but they tell a network that fell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = 255
REACHED = 0.7
"""CAM value that counts as pointing somewhere: the paper's H."""


def cam_figures(
    live: Sequence[int],
    *,
    score: np.ndarray,
    label: np.ndarray,
    cam: np.ndarray,
    slot_class: np.ndarray,
    **_: Any,
) -> dict[str, float]:
    """How well a ViT knows its images.

    live: places of the images that count. score: (image, class) probabilities; label: (image, class) bool, perhaps
    narrower; cam: (image, slot, y, x) in [0, 1]; slot_class: (image, slot), 0 unused.
    Returns `label`: the mean of the shares of named and of absent classes that it gets right; `pointed`: share of
    the named classes whose CAM reaches H somewhere.
    """
    rows = np.asarray(live)
    said, named = score[rows][:, : label.shape[1]] >= 0.5, label[rows]
    used = slot_class[rows] > 0
    peaks = cam[rows].reshape(*used.shape, -1).max(-1)
    return {
        "label": float(np.mean([_share(said, named), _share(~said, ~named)])),
        "pointed": _share(peaks >= REACHED, used),
    }


def fusion_figures(
    live: Sequence[int],
    *,
    p: np.ndarray,
    p1: np.ndarray,
    p2: np.ndarray,
    weight: np.ndarray,
    slot_class: np.ndarray,
    **_: Any,
) -> dict[str, float]:
    """How well a fusion network keeps to what CAM and SAM say together.

    live: places of the images that count. p, p1, p2: (image, y, x) label maps; weight: (image, y, x) in [0, 1].
    Returns `consensus`: share of the pixels on which P1 and P2 agree that P takes over, weighted, the mean of
    background and defect; `shown`: share of the named classes that P shows at all.
    """
    rows = np.asarray(live)
    p, p1, p2, weight = p[rows], p1[rows], p2[rows], weight[rows].astype(np.float64)
    agreed = (p1 == p2) & (p1 != UNKNOWN)
    parts = [_share(p == p1, agreed & side, weight) for side in (p1 == 0, p1 > 0)]
    named = [(p[n], k) for n, slots in enumerate(slot_class[rows]) for k in slots if k]
    shown = [float((label == k).any()) for label, k in named]
    return {"consensus": float(np.mean(parts)), "shown": float(np.mean(shown)) if shown else 1.0}


def _share(true: np.ndarray, where: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Weighted share of the places in `where` that are true; 1 where there is none: nothing is wrong."""
    weighed = where.astype(np.float64) if weight is None else where * weight
    total = float(weighed.sum())
    return float((weighed * true).sum()) / total if total else 1.0
