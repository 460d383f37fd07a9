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


def solidity(mask):
    """Share of its convex hull that a piece fills."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.fillConvexPoly(np.zeros(SHAPE, np.uint8), cv2.convexHull(np.concatenate(outlines)), 1)
    return mask.sum() / hull.sum()


def test_a_stain_is_one_part_that_fills_its_hull_less():
    rng, found = np.random.default_rng(6), {}
    for stained in (False, True):
        masks = [outline(rng, "blob", SHAPE, style(stained=stained, size=0.2)) for _ in range(40)]
        masks = [mask for mask in masks if mask.sum() > 200]
        assert len(masks) > 20
        assert all(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2 for mask in masks)
        found[stained] = np.mean([solidity(mask) for mask in masks])
    assert found[True] < found[False] - 0.02


def test_an_edge_crumbles_pixel_by_pixel_and_only_there():
    mask = np.zeros(SHAPE, bool)
    mask[30:60, 30:90] = True
    drawn = {}
    for crumbling in (0.0, 0.6):
        drawn[crumbling] = np.zeros(SHAPE, np.float32)
        paint(
            np.random.default_rng(7),
            drawn[crumbling],
            mask,
            "ellipse",
            style(softness=1.5, crumbling=crumbling),
        )
    edge = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) != cv2.erode(
        mask.astype(np.uint8), np.ones((3, 3))
    )
    rough = {c: np.abs(np.diff(grey, axis=1))[38:52, 60:80].max() for c, grey in drawn.items()}
    assert rough[0.6] < 1, "inside nothing crumbles"
    assert drawn[0.6][edge].std() > 1.2 * drawn[0.0][edge].std()
    assert drawn[0.6].max() < 1.2 * drawn[0.0].max()


def test_what_changes_the_gloss_changes_the_texture_with_it():
    mask = np.zeros(SHAPE, bool)
    mask[20:80, 20:80] = True
    texture = np.random.default_rng(8).normal(0, 10, SHAPE).astype(np.float32)
    for gloss, kept in ((False, 1.0), (True, 0.5)):
        grey = 120 + texture
        paint(np.random.default_rng(9), grey, mask, "ellipse", style(contrast=-60.0, gloss=gloss))
        dark = grey[mask].mean()
        assert dark < 95
        if gloss:  # half the light, half the texture
            kept = dark / 120
        assert grey[mask].std() / texture[mask].std() == pytest.approx(kept, abs=0.15)


def test_a_scratch_is_thin():
    for mask in pieces("scratch"):
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
        assert depth.max() <= 3


def test_contrast_stands_above_the_texture():
    rng = np.random.default_rng(4)
    drawn = [draw_style(rng, "blob", SHAPE, 0.0, roughness=20.0) for _ in range(100)]
    assert min(abs(s.contrast) for s in drawn) > 20
    assert {np.sign(s.contrast) for s in drawn} == {-1, 1}
