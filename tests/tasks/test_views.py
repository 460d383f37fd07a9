"""A view and its inverse are one object: nothing is lost or moved on the way there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.views import View

DIHEDRAL = [(flip, turns) for flip in (False, True) for turns in range(4)]
SIZES = [(7, 12), (12, 7), (9, 9), (1, 5), (31, 20)]
PLACES = [(1.0, 0), (2.0, 1), (2.0, 2), (2.0, 3), (2.0, 4), (0.5, 5)]


def numbered(size):
    return np.arange(size[0] * size[1], dtype=np.int32).reshape(size)


@pytest.mark.parametrize(("flip", "turns"), DIHEDRAL)
@pytest.mark.parametrize("size", SIZES)
def test_undoing_a_mirror_and_turns_gives_the_same_array(flip, turns, size):
    view = View(flip, turns)
    there = view.apply_map(numbered(size))
    assert there.shape == view.grid(size) == view.extent(size)
    np.testing.assert_array_equal(view.invert_map(there, size), numbered(size))


def test_the_eight_mirrors_and_turns_are_distinct():
    assert len({View(*e).apply_map(numbered((4, 4))).tobytes() for e in DIHEDRAL}) == 8


@pytest.mark.parametrize(("scale", "window"), PLACES)
@pytest.mark.parametrize(("flip", "turns"), DIHEDRAL)
def test_inside_its_window_a_view_undone_is_the_image_and_outside_it_is_no_vote(flip, turns, scale, window):
    size, view = (21, 34), View(flip, turns, scale, window)
    back = view.invert_map(view.apply_map(numbered(size), fill=-1), size, fill=-7)
    frame = view.frame(size)
    seen = np.zeros(size, bool)
    seen[max(frame.top, 0) : frame.top + frame.height, max(frame.left, 0) : frame.left + frame.width] = True
    np.testing.assert_array_equal(back, np.where(seen, numbered(size), -7))


@pytest.mark.parametrize("size", SIZES)
def test_the_four_quadrants_cover_the_image_and_overlap_in_the_middle(size):
    count = sum(
        (View(scale=2, window=w).invert_map(np.ones(View(window=w).grid(size), int), size, fill=0))
        for w in range(1, 5)
    )
    assert count.min() >= 1
    assert count[size[0] // 2, size[1] // 2] == 4


@pytest.mark.parametrize(("scale", "window"), PLACES)
@pytest.mark.parametrize(("flip", "turns"), DIHEDRAL)
def test_points_land_on_the_pixel_that_they_were_on(flip, turns, scale, window):
    size, view = (21, 34), View(flip, turns, scale, window)
    picture = view.apply_map(numbered(size), fill=-1)
    seen = np.argwhere(view.invert_map(np.ones(view.grid(size), int), size, fill=0) == 1)
    x, y = view.apply_points(seen[:, ::-1], size).T.astype(int)
    np.testing.assert_array_equal(picture[y, x], numbered(size)[seen[:, 0], seen[:, 1]])


@settings(max_examples=80, deadline=None)
@given(
    flip=st.booleans(),
    turns=st.integers(0, 3),
    place=st.sampled_from([*PLACES, (0.5, 0)]),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    point=st.tuples(st.floats(-5, 70), st.floats(-5, 70)),
)
def test_points_return_exactly(flip, turns, place, height, width, point):
    view, points = View(flip, turns, *place), np.array([point])
    there = view.apply_points(points, (height, width))
    np.testing.assert_allclose(view.invert_points(there, (height, width)), points, atol=1e-9)


def test_a_resized_view_moves_points_with_the_rounded_size():
    view = View(scale=0.5)
    assert view.extent((11, 21)) == (6, 10)
    left, right = view.apply_points(np.array([[-0.5, -0.5], [20.5, 10.5]]), (11, 21))
    np.testing.assert_allclose(left, [-0.5, -0.5])  # borders stay borders
    np.testing.assert_allclose(right, [9.5, 5.5])


def test_a_resized_view_keeps_maps_at_the_images_own_resolution():
    view = View(True, 1, 0.5)
    assert view.grid((11, 21)) == (21, 11)
    np.testing.assert_array_equal(
        view.invert_map(view.apply_map(numbered((11, 21))), (11, 21)), numbered((11, 21))
    )


@pytest.mark.parametrize(("flip", "turns"), DIHEDRAL)
def test_a_box_stays_round_its_pixels_with_corners_sorted(flip, turns):
    size, view = (20, 30), View(flip, turns)
    region = np.zeros(size, bool)
    region[3:8, 11:25] = True
    y, x = np.nonzero(view.apply_map(region))
    box = view.apply_box(np.array([11, 3, 24, 7], np.float32), size)
    np.testing.assert_array_equal(box, [x.min(), y.min(), x.max(), y.max()])


def test_a_box_is_clipped_to_what_the_view_shows():
    box = View(scale=2, window=1).apply_box(np.array([2.0, 2, 29, 19]), (20, 30))
    np.testing.assert_array_equal(box, [2, 2, 17, 11])


@pytest.mark.parametrize(("scale", "window"), PLACES)
def test_the_image_goes_the_way_of_its_maps(scale, window):
    image = np.random.default_rng(0).integers(0, 256, (15, 22, 3), dtype=np.uint8)
    view = View(True, 3, scale, window)
    seen = view.apply_map(np.ones((15, 22), bool), fill=False)
    np.testing.assert_array_equal(
        view.apply_image(image)[seen], view.apply_map(image.transpose(2, 0, 1)).transpose(1, 2, 0)[seen]
    )


def test_a_view_survives_its_row_of_the_array():
    for view in (View(), View(True, 3, 2.0, 4), View(False, 1, 0.5, 5)):
        assert View.of(view.parameters) == view


@pytest.mark.parametrize("wrong", [{"turns": 4}, {"window": 6}, {"scale": 0}])
def test_what_is_no_view_is_refused(wrong):
    with pytest.raises(ValueError, match="turns must be 0 to 3"):
        View(**wrong)


def test_a_map_of_another_extent_is_refused():
    with pytest.raises(ValueError, match=r"expected \(5, 4\)"):
        View(turns=1).invert_map(np.zeros((4, 5)), (4, 5))
