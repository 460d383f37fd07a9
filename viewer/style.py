"""Colours and sizes that every picture shares: told apart by eyes that see few hues, and in grey."""

from __future__ import annotations

import numpy as np

CLASSES = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
"""Okabe and Ito's colours, in the order of class indices from 1; they come again after the seventh."""
INK, QUIET, PAPER, RULE = "#1B1F24", "#6B7280", "#FFFFFF", "#D0D5DB"
"""Text, lesser text, ground, and lines between groups."""
HEAT = "magma"
"""Colour map of evidence in [0, 1], dark where there is none."""
TRUST = "bone"
"""Colour map of confidence in [0, 1]: white where it is sure, so that doubt is what stands out."""


def colour(k: int) -> str:
    """The colour of class k, from 1, as #RRGGBB. Raises ValueError for background and 255."""
    if not 1 <= k < 255:
        raise ValueError(f"class index {k}: only 1 to 254 have a colour")
    return CLASSES[(k - 1) % len(CLASSES)]


def rgb(code: str) -> np.ndarray:
    """#RRGGBB as (channel=3,) float64 in [0, 1]."""
    return np.array([int(code[n : n + 2], 16) for n in (1, 3, 5)]) / 255


def stripes(shape: tuple[int, int]) -> np.ndarray:
    """Diagonal stripes that mark 255, about 24 across whatever the size: (y, x) bool."""
    period = max(4, round(max(shape) / 24))
    y, x = np.indices(shape)
    return np.asarray((x + y) % period < period / 2)
