"""Points lie on the piece they ask about, in every view, anew, and nothing is silently left out."""

import numpy as np
import pytest

from tasks.prompt import STAGE, cam_level, components, prompt, spread
from tasks.views import View

SIZE = (60, 90)
VIEWS = [
    View(),
    View(True, 1),
    View(False, 2),
    View(scale=2, window=1),
    View(True, 3, 2, 4),
    View(False, 1, 0.5, 5),
]
SETTINGS = {
    "low": 0.25,
    "high": 0.7,
    "pieces": 16,
    "positives": 3,
    "negatives": 2,
    "min_area": 0.0,
    "seed": 0,
}


def heat_of(*boxes, value=1.0, size=SIZE):
    heat = np.zeros(size, np.float16)
    for top, left, bottom, right in boxes:
        heat[top:bottom, left:right] = value
    return heat


def block(heats, annotation=None, slot_class=(1,), views=VIEWS):
    cam = np.stack(heats)[None]  # one image
    marks = np.full((1, *SIZE), 255, np.uint8) if annotation is None else annotation[None]
    return {
        "cam": cam,
        "annotation": marks,
        "slot_class": np.array([slot_class], np.uint8),
        "size": np.array([SIZE], np.uint16),
        "view": np.stack([view.parameters for view in views])[None],
        "sha256": np.arange(32, dtype=np.uint8)[None],
    }


def in_image(out, views=VIEWS):
    """Every used point in the image's frame: (slot, piece, view, label, x, y)."""
    for s, p, j, i in np.argwhere(np.isfinite(out["point"][0]).all(-1)).tolist():
        x, y, label = out["point"][0, s, p, j, i]
        back = views[j].invert_points(np.array([x, y]), SIZE)
        yield s, p, j, int(label), round(back[0]), round(back[1])


def test_positives_lie_on_their_piece_and_negatives_on_the_background_in_every_view():
    heat = heat_of((5, 8, 25, 30), (35, 50, 55, 85))
    heat[5:25, 30:40] = 0.5  # uncertain: neither
    out = prompt(**block([heat]), **SETTINGS)
    index = {0: (35, 50, 55, 85), 1: (5, 8, 25, 30)}  # largest first
    labels = {0: 0, 1: 0}
    for _, p, _, label, x, y in in_image(out):
        top, left, bottom, right = index[p]
        assert (top <= y < bottom and left <= x < right) if label else heat[y, x] <= 0.25
        labels[label] += 1
    assert labels[1] > labels[0] > 0


def test_one_group_a_piece_with_the_pieces_box():
    out = prompt(**block([heat_of((5, 8, 25, 30), (35, 50, 55, 85))]), **SETTINGS)
    np.testing.assert_array_equal(out["box"][0, 0], [[50, 35, 84, 54], [8, 5, 29, 24]])


def test_positives_are_deep_inside():
    out = prompt(**block([heat_of((10, 10, 50, 80))]), **SETTINGS | {"negatives": 0})
    for *_, x, y in in_image(out):
        assert min(y - 9, 50 - y, x - 9, 80 - x) >= 0.5 * 20 - 1


def test_points_are_drawn_anew_in_each_view():
    out = prompt(**block([heat_of((10, 10, 50, 80))]), **SETTINGS)
    places = {}
    for _, _, j, label, x, y in in_image(out):
        places.setdefault(j, set()).add((label, x, y))
    assert len(places) == len(VIEWS)
    assert len({frozenset(each) for each in places.values()}) == len(VIEWS)


def test_a_piece_outside_a_quadrant_has_no_points_there_and_others_have():
    out = prompt(**block([heat_of((45, 70, 58, 88))]), **SETTINGS)  # bottom right
    used = np.isfinite(out["point"][0, 0, 0]).all(-1).any(-1)  # (view,)
    assert [bool(each) for each in used] == [view.window != 1 for view in VIEWS]


def test_points_depend_on_content_class_and_seed_alone():
    heats = [heat_of((10, 10, 50, 80)), heat_of((5, 5, 20, 20))]
    both = prompt(**block(heats, slot_class=(1, 2)), **SETTINGS)
    second = prompt(**block(heats[1:], slot_class=(2,)), **SETTINGS)
    np.testing.assert_array_equal(both["point"][0, 1], second["point"][0, 0])
    other = prompt(**block(heats[1:], slot_class=(2,)), **SETTINGS | {"seed": 1})
    assert not np.array_equal(other["point"], second["point"], equal_nan=True)


def test_pieces_beyond_the_limit_are_dropped_smallest_first_and_counted():
    boxes = [(2 + 10 * r, 2 + 10 * c, 4 + 10 * r + (r == 0), 5 + 10 * c) for r in range(4) for c in range(5)]
    out = prompt(**block([heat_of(*boxes)]), **SETTINGS | {"pieces": 5})
    assert out["dropped"][0, 0] == 15
    assert (out["box"][0, 0, :, 3] == 4).all()  # those of the first row are larger


def test_specks_are_left_out_unless_there_is_nothing_else():
    speck, large = (3, 3, 5, 5), (20, 20, 50, 50)
    few = SETTINGS | {"min_area": 0.01}
    assert prompt(**block([heat_of(speck, large)]), **few)["box"].shape[2] == 1
    np.testing.assert_array_equal(prompt(**block([heat_of(speck)]), **few)["box"][0, 0], [[3, 3, 4, 4]])


def test_a_weak_cam_is_asked_at_its_strongest_place():
    heat = heat_of((10, 10, 30, 30), value=0.3)
    heat[15:25, 15:25] = 0.5
    assert cam_level(heat.astype(np.float32), 0.7, 0.7) == pytest.approx(0.35)
    out = prompt(**block([heat]), **SETTINGS)
    np.testing.assert_array_equal(out["box"][0, 0], [[15, 15, 24, 24]])


def test_a_cam_of_zeros_has_no_prompt():
    out = prompt(**block([heat_of()]), **SETTINGS)
    assert np.isnan(out["point"]).all()
    assert np.isnan(out["box"]).all()


def test_marks_beside_the_cam_take_its_place():
    marks = np.full(SIZE, 255, np.uint8)
    marks[40:43, 60:80] = 1
    marks[10, 5:50] = 0
    out = prompt(**block([heat_of((5, 5, 30, 30))], marks), **SETTINGS)
    for *_, label, x, y in in_image(out):
        assert marks[y, x] == (1 if label else 0)
    assert np.isnan(out["box"]).all()  # marks do not bound the defect


def test_a_mark_upon_the_cam_is_asked_about_with_more_of_its_component():
    marks = np.full(SIZE, 255, np.uint8)
    marks[20, 15] = 1
    out = prompt(**block([heat_of((5, 5, 30, 30), (35, 50, 55, 85))], marks), **SETTINGS)
    assert np.isnan(out["box"]).all(), "the CAM may see a part of the piece alone"
    assert np.isfinite(out["point"][0, 0]).any((1, 2, 3)).sum() == 1, "what is not marked is not asked about"
    points = [(j, x, y) for *_, j, label, x, y in in_image(out) if label]
    assert all(5 <= x < 30 and 5 <= y < 30 for _, x, y in points)
    for j, view in enumerate(VIEWS):
        window = view.shown(SIZE)
        if window.top <= 20 < window.top + window.height and window.left <= 15 < window.left + window.width:
            assert (j, 15, 20) in points, "the mark itself is asked about in every view that shows it"
    assert len({(x, y) for _, x, y in points}) > 4, "and so are other places of the piece"


def test_marks_upon_one_component_share_it_by_what_is_nearest():
    marks = np.full(SIZE, 255, np.uint8)
    marks[20, 10] = marks[20, 60] = 1
    out = prompt(**block([heat_of((5, 5, 30, 80))], marks), **SETTINGS)
    by_piece = [
        {(x, y) for _, p, *_, label, x, y in in_image(out) if label and p == piece} for piece in (0, 1)
    ]
    for points in by_piece:
        left = (10, 20) in points
        assert left != ((60, 20) in points)
        assert all((x <= 36) == left or abs(x - 35) <= 2 for x, _ in points)
        assert len(points) > 3


def test_a_scribble_is_asked_about_as_often_as_the_rest_of_its_piece():
    marks = np.full(SIZE, 255, np.uint8)
    marks[8, 6:29] = 1
    out = prompt(**block([heat_of((5, 5, 30, 30))], marks, views=VIEWS[:3]), **SETTINGS | {"positives": 4})
    for j in range(3):
        upon = [marks[y, x] == 1 for *_, view, label, x, y in in_image(out, VIEWS[:3]) if label and view == j]
        assert len(upon) == 4
        assert sum(upon) >= 2


def test_marks_of_another_class_do_not():
    marks = np.full(SIZE, 255, np.uint8)
    marks[40:43, 60:80] = 2
    out = prompt(**block([heat_of((5, 5, 30, 30))], marks), **SETTINGS)
    np.testing.assert_array_equal(out["box"][0, 0], [[5, 5, 29, 29]])


def test_a_single_marked_pixel_is_one_point():
    marks = np.full(SIZE, 255, np.uint8)
    marks[40, 60] = 1
    out = prompt(**block([heat_of()], marks, views=VIEWS[:1]), **SETTINGS | {"negatives": 0})
    assert np.isfinite(out["point"][0, 0, 0, 0]).all(-1).sum() == 1
    np.testing.assert_array_equal(out["point"][0, 0, 0, 0, 0], [60, 40, 1])


def test_unused_slots_are_nan():
    out = prompt(**block([heat_of((5, 5, 30, 30))] * 2, slot_class=(1, 0)), **SETTINGS)
    assert np.isfinite(out["point"][0, 0]).any()
    assert np.isnan(out["point"][0, 1]).all()


def test_padding_is_never_asked_about():
    arrays = block([heat_of((0, 0, 60, 90))])
    arrays["size"] = np.array([[30, 40]], np.uint16)
    out = prompt(**arrays, **SETTINGS)
    np.testing.assert_array_equal(out["box"][0, 0], [[0, 0, 39, 29]])


def test_diagonal_pixels_are_one_piece():
    pieces = components(np.eye(7, dtype=bool))
    assert len(pieces) == 1
    assert len(pieces[0].pixels) == 7


def test_spread_points_are_different_pixels():
    pixels = np.array([[0, 0], [5, 5]])
    chosen = spread(np.random.default_rng(0), pixels, 5)
    assert sorted(map(tuple, chosen.tolist())) == [(0, 0), (5, 5)]


@pytest.mark.parametrize("wrong", [{"low": 0.8}, {"positives": 0}, {"positives": 7}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="at most 8 points"):
        prompt(**block([heat_of()]), **SETTINGS | wrong)


def test_arrays_are_as_declared():
    out = prompt(**block([heat_of((5, 8, 25, 30))]), **SETTINGS)
    assert {spec.name for spec in STAGE.writes} == set(out)
    for spec in STAGE.writes:
        spec.check(out[spec.name])
