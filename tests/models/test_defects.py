"""One piece of a defect: its outline, and what it does to the grey values."""

import cv2
import numpy as np
import pytest

from models.defects import KINDS, Style, draw_style, outline, paint

SHAPE = (96, 128)


def style(**changes):
    plain = {
        "angle": 0.3, "contrast": 60.0, "softness": 0.0, "grain": 0.0, "scale": 1.0, "size": 0.1, "aspect": 1.5,
    }  # fmt: skip
    return Style(**{**plain, **changes})


def pieces(kind, count=12):
    rng = np.random.default_rng(5)
    drawn = [outline(rng, kind, SHAPE, style()) for _ in range(count)]
    return [mask for mask in drawn if mask.sum() > 20]


@pytest.mark.parametrize("kind", KINDS)
def test_an_outline_is_one_connected_part(kind):
    for mask in pieces(kind):
        assert mask.shape == SHAPE
        assert mask.dtype == bool
        assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_edge_changes_the_mask_and_nothing_else(kind):
    for mask in pieces(kind):
        grey = np.full(SHAPE, 120, np.float32)
        paint(np.random.default_rng(1), grey, mask, kind, style())
        assert (grey[~mask] == 120).all()
        assert (grey[mask] != 120).mean() > 0.5


def test_a_soft_edge_stays_near_the_mask():
    for mask in pieces("blob"):
        grey = np.full(SHAPE, 120, np.float32)
        paint(np.random.default_rng(1), grey, mask, "blob", style(softness=1.5))
        near = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
        assert np.allclose(grey[~near], 120)


@pytest.mark.parametrize("contrast", [-60.0, 60.0])
def test_contrast_has_its_sign(contrast):
    for mask in pieces("ellipse"):
        grey = np.full(SHAPE, 120, np.float32)
        paint(np.random.default_rng(2), grey, mask, "ellipse", style(contrast=contrast))
        assert np.sign(grey[mask].mean() - 120) == np.sign(contrast)


def test_a_dent_is_bright_on_one_side_and_dark_on_the_other():
    for mask in pieces("dent"):
        grey = np.full(SHAPE, 120, np.float32)
        paint(np.random.default_rng(3), grey, mask, "dent", style())
        assert grey[mask].max() > 130
        assert grey[mask].min() < 110


def test_a_scratch_is_thin():
    for mask in pieces("scratch"):
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
        assert depth.max() <= 3


def test_contrast_stands_above_the_texture():
    rng = np.random.default_rng(4)
    drawn = [draw_style(rng, "blob", SHAPE, 0.0, roughness=20.0) for _ in range(100)]
    assert min(abs(s.contrast) for s in drawn) > 20
    assert {np.sign(s.contrast) for s in drawn} == {-1, 1}
