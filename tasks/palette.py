"""The colour of each class, declared once: in exported PNGs, in CVAT's and Label Studio's labels, on every page."""

from __future__ import annotations

import colorsys
from functools import cache

NAMED = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
"""Okabe and Ito's colours, told apart by eyes that see few hues, in the order of class indices from 1."""
BACKGROUND, UNKNOWN = "#000000", "#FFFFFF"
"""Colours of the indices 0 and 255."""


@cache
def colour(k: int) -> str:
    """The colour of class k as #RRGGBB, every index its own.

    The first seven are NAMED; beyond, hues go by the golden ratio, light and strength vary besides. Raises
    ValueError for background and 255.
    """
    if not 1 <= k < 255:
        raise ValueError(f"class index {k}: only 1 to 254 have a colour")
    if k <= len(NAMED):
        return NAMED[k - 1]
    n = k - len(NAMED) - 1
    share = colorsys.hsv_to_rgb(0.08 + n * 0.618034, 0.85 - 0.3 * (n % 2), 0.95 - 0.2 * (n % 3) - 0.001 * n)
    return "#" + "".join(f"{round(255 * value):02X}" for value in share)


def rgb(code: str) -> tuple[int, int, int]:
    """#RRGGBB as three numbers of 0 to 255."""
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def palette() -> list[int]:
    """768 numbers, RGB of every index, as an indexed PNG has it."""
    codes = [BACKGROUND, *(colour(k) for k in range(1, 255)), UNKNOWN]
    return [value for code in codes for value in rgb(code)]
