"""Colours and sizes that every picture and page shares; those of the classes come from `tasks.palette`."""

from __future__ import annotations

import numpy as np

from tasks.palette import colour

__all__ = ["colour", "contrast", "rgb", "stripes", "stylesheet"]

INK, QUIET, PAPER, RULE = "#1B1F24", "#6B7280", "#FFFFFF", "#D0D5DB"
"""Text, lesser text, ground, and lines between groups."""
HEAT = "magma"
"""Colour map of evidence in [0, 1], dark where there is none."""
TRUST = "bone"
"""Colour map of confidence in [0, 1]: white where it is sure, so that doubt is what stands out."""


THEMES = {
    "light": {
        "ground": "#F6F7F9", "surface": "#FFFFFF", "raised": "#EDEFF3", "line": "#D0D5DB", "edge": "#7A828E",
        "ink": "#1B1F24", "quiet": "#565D68", "accent": "#0B5CAD", "on-accent": "#FFFFFF",
        "good": "#116B3C", "bad": "#A8231B", "warn": "#7A4B00", "good-soft": "#DDF1E5", "bad-soft": "#FBE3E1",
        "warn-soft": "#FBEBCB",
    },
    "dark": {
        "ground": "#12151A", "surface": "#1B2027", "raised": "#262C35", "line": "#39414C", "edge": "#7F8896",
        "ink": "#ECEFF3", "quiet": "#A9B1BD", "accent": "#7CB8F5", "on-accent": "#0E1A28",
        "good": "#6FD39C", "bad": "#FF9A91", "warn": "#F2C464", "good-soft": "#173527", "bad-soft": "#44201D",
        "warn-soft": "#3D2F12",
    },
}  # fmt: skip
"""Colours of the pages by what they are for, in both schemes."""
TEXT_ON = {
    "ink": ("ground", "surface", "raised"), "quiet": ("ground", "surface", "raised"),
    "accent": ("ground", "surface", "raised"), "on-accent": ("accent",), "good": ("surface", "good-soft"),
    "bad": ("surface", "bad-soft"), "warn": ("surface", "warn-soft"),
}  # fmt: skip
"""Which colour of text stands on which grounds: all of them have to reach AA (4.5 to 1)."""
STATES = {
    "fresh": ("#009E73", "done and up to date"),
    "stale": ("#E69F00", "to be made anew"),
    "failed": ("#D55E00", "failed"),
    "missing": ("#8A93A0", "not made yet"),
}
"""How a block stands: colour and words; the page gives each a sign of its own besides."""


def stylesheet() -> str:
    """The colours as CSS: a property for each use in both schemes, and a rule for each class index."""
    rules = [
        _scheme(":root", "light"),
        "@media (prefers-color-scheme: dark) {",
        _scheme(":root", "dark"),
        "}",
    ]
    rules += [_scheme(f":root[data-theme={name}]", name) for name in THEMES]
    rules += [f".k{k} {{ --class: {colour(k)}; }}" for k in range(1, 255)]
    rules += [f".is-{name} {{ --state: {code}; }}" for name, (code, _) in STATES.items()]
    return "\n".join(rules) + "\n"


def _scheme(where: str, theme: str) -> str:
    values = "; ".join(f"--{name}: {code}" for name, code in THEMES[theme].items())
    return f"{where} {{ color-scheme: {theme}; {values}; }}"


def luminance(code: str) -> float:
    """Relative luminance of #RRGGBB in [0, 1], as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(code).tolist()]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours by WCAG 2, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def rgb(code: str) -> np.ndarray:
    """#RRGGBB as (channel=3,) float64 in [0, 1]."""
    return np.array([int(code[n : n + 2], 16) for n in (1, 3, 5)]) / 255


def stripes(shape: tuple[int, int]) -> np.ndarray:
    """Diagonal stripes that mark 255, about 24 across whatever the size: (y, x) bool."""
    period = max(4, round(max(shape) / 24))
    y, x = np.indices(shape)
    return np.asarray((x + y) % period < period / 2)
