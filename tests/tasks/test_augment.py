"""Views are distinct, drawn from the image alone, and SAM's input is the predictor's own."""

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from tasks.augment import STAGE, augment, draw_views, sam_input
from tasks.views import View

SETTINGS = {"views": 8, "flips": True, "turns": True, "scales": (1, 2), "scale_mode": "canvas", "seed": 3}


def block(sizes, seed=0):
    rng = np.random.default_rng(seed)
    height, width = np.max(sizes, axis=0)
    image = np.zeros((len(sizes), height, width, 3), np.uint8)
    for n, (h, w) in enumerate(sizes):
        image[n, :h, :w] = rng.integers(0, 256, (h, w, 3))
    digests = rng.integers(0, 256, (len(sizes), 32), dtype=np.uint8)
    return {"image": image, "size": np.array(sizes, np.uint16), "sha256": digests}


def views_of(seed=0, **changes):
    keywords = {key: SETTINGS[key] for key in ("flips", "turns", "scales", "scale_mode")} | changes
    count = keywords.pop("views", 8)
    return draw_views(np.random.default_rng(seed), count, **keywords)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scales", [(1,), (1, 2), (0.5, 1, 2), (2, 0.5)])
@pytest.mark.parametrize("mode", ["canvas", "resize"])
def test_views_are_distinct_and_the_identity_is_first(seed, scales, mode):
    drawn = views_of(seed, scales=scales, scale_mode=mode)
    assert drawn[0] == View()
    assert len(set(drawn)) == len(drawn) == 8


def test_eight_views_take_each_mirror_and_turn_once_and_the_scales_and_quadrants_in_turn():
    drawn = views_of(5)
    assert len({(view.flip, view.turns) for view in drawn}) == 8
    assert [view.scale for view in drawn] == [1, 2] * 4
    assert {view.window for view in drawn if view.scale == 2} == {1, 2, 3, 4}


def test_all_distinct_views_can_be_had_and_not_one_more():
    assert len(set(views_of(scales=(0.5, 1, 2), views=48))) == 48
    with pytest.raises(ValueError, match=r"49 views .* make 48 distinct"):
        views_of(scales=(0.5, 1, 2), views=49)


def test_twice_the_size_is_no_view_of_its_own_where_sam_resizes_it_away():
    with pytest.raises(ValueError, match=r"17 views .* make 16 distinct"):
        views_of(scales=(0.5, 1, 2), scale_mode="resize", views=17)
    assert {view.scale for view in views_of(scales=(0.5, 1, 2), scale_mode="resize")} == {0.5, 1.0}


@pytest.mark.parametrize(("flips", "turns", "count"), [(False, False, 1), (True, False, 4), (False, True, 4)])
def test_switches_limit_the_mirrors_and_turns(flips, turns, count):
    drawn = views_of(flips=flips, turns=turns, scales=(1,), views=count)
    picture = np.arange(9).reshape(3, 3)
    seen = {view.apply_map(picture).tobytes() for view in drawn}
    assert len(seen) == count
    assert (np.rot90(picture).tobytes() in seen) == turns
    assert (picture[:, ::-1].tobytes() in seen) == flips


def test_unknown_scales_are_refused():
    with pytest.raises(ValueError, match=r"\[3\] are not known"):
        views_of(scales=(1, 3))


def test_views_depend_on_the_image_alone():
    arrays = block([(30, 41), (25, 25), (50, 33)])
    whole = augment(**arrays, input_side=32, **SETTINGS)
    alone = augment(**{key: value[1:2] for key, value in arrays.items()}, input_side=32, **SETTINGS)
    for name in whole:
        np.testing.assert_array_equal(whole[name][1:2], alone[name])


def test_other_images_and_other_seeds_get_other_views():
    arrays = block([(8, 8)] * 6)
    drawn = augment(**arrays, input_side=32, **SETTINGS)["view"]
    assert len({each.tobytes() for each in drawn}) > 1
    again = augment(**arrays, input_side=32, **SETTINGS | {"seed": 4})["view"]
    assert (drawn != again).any()


@pytest.mark.parametrize("mode", ["canvas", "resize"])
def test_the_input_is_the_predictors_own_byte_for_byte(mode):
    arrays = block([(47, 61), (90, 40)])
    out = augment(**arrays, input_side=64, **SETTINGS | {"scales": (0.5, 1, 2), "scale_mode": mode})
    for n, (height, width) in enumerate(arrays["size"].tolist()):
        for j, row in enumerate(out["view"][n]):
            picture = View.of(row).apply_image(arrays["image"][n, :height, :width])
            expected = ResizeLongestSide(64).apply_image(picture)
            h, w = out["input_size"][n, j].tolist()
            assert (h, w) == expected.shape[:2]
            np.testing.assert_array_equal(out["augmented"][n, j, :h, :w], expected)
            assert max(h, w) == 64
            assert not out["augmented"][n, j, h:].any()
            assert not out["augmented"][n, j, :, w:].any()


@pytest.mark.parametrize("frame", [np.zeros((64, 64, 3), np.float32), np.zeros((64, 60, 3), np.uint8)])
def test_a_frame_that_would_stay_empty_is_refused(frame):
    with pytest.raises(ValueError, match=r"expected \(side, side, 3\) uint8"):
        sam_input(block([(47, 61)])["image"][0], frame)


def test_an_image_that_pillow_keeps_in_several_blocks_is_read_all_the_same():
    image = block([(47, 61)])["image"][0]
    frames = np.full((2, 64, 64, 3), 7, np.uint8)
    assert sam_input(image, frames[0]) == (49, 64)
    assert (frames[0, 49:] == 7).all(), "beside the image a frame is left as it is"
    size = Image.core.get_block_size()
    try:
        Image.core.set_block_size(4096)
        sam_input(image, frames[1])
    finally:
        Image.core.set_block_size(size)
    np.testing.assert_array_equal(frames[0], frames[1])


def test_arrays_are_as_declared():
    out = augment(**block([(20, 30)]), input_side=32, **SETTINGS)
    assert {spec.name for spec in STAGE.writes} == set(out)
    for spec in STAGE.writes:
        spec.check(out[spec.name])


def test_torch_is_not_left_in_the_result():
    out = augment(**block([(20, 30)]), input_side=32, **SETTINGS)
    assert not any(isinstance(value, torch.Tensor) for value in out.values())
