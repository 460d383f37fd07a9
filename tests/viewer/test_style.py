import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tasks.palette import NAMED, colour
from viewer import style

# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as such eyes see it
BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(linear):
    """CIE L*a*b* of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(np.clip(xyz, 0, None)), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear(code):
    value = style.rgb(code)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("theme", style.THEMES)
@pytest.mark.parametrize("text", style.TEXT_ON)
def test_text_reaches_aa_on_every_ground(theme, text):
    colours = style.THEMES[theme]
    for ground in style.TEXT_ON[text]:
        assert style.contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("theme", style.THEMES)
def test_edges_of_what_can_be_operated_are_seen(theme):
    colours = style.THEMES[theme]
    for ground in ("ground", "surface"):
        assert style.contrast(colours["edge"], colours[ground]) >= 3
        assert style.contrast(colours["accent"], colours[ground]) >= 3


def test_contrast_is_wcag_s():
    assert style.contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert style.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def test_the_pages_take_their_text_colours_from_the_themes_alone():
    css = (Path(style.__file__).parent / "static" / "site.css").read_text(encoding="utf-8")
    allowed = {"inherit", "#000", *(f"var(--{name})" for name in (*style.TEXT_ON, "ground"))}
    assert {rule.strip() for rule in re.findall(r"(?<![-\w])color:\s*([^;}]+)", css)} <= allowed
    # black stands on the colours of states alone
    for code, _ in style.STATES.values():
        assert style.contrast("#000000", code) >= 4.5


@pytest.mark.parametrize("eyes", BLIND)
def test_classes_are_told_apart_by_eyes_that_see_few_hues(eyes):
    seen = [lab(np.clip(np.array(BLIND[eyes]) @ linear(code), 0, 1)) for code in NAMED]
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    assert nearest > 8  # 2.3 is just noticeable


def test_every_class_has_a_colour_of_its_own_on_every_page():
    sheet = style.stylesheet()
    assert len({colour(k) for k in range(1, 255)}) == 254
    assert all(f".k{k} {{ --class: {colour(k)}; }}" in sheet for k in (1, 7, 8, 254))
    for k in (0, 255):
        with pytest.raises(ValueError, match="1 to 254"):
            colour(k)
