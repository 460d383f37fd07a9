import numpy as np
import pytest

from models.agreement import UNKNOWN, agreement, heeding, spoken, strongest, trust, trusted, with_marks

RULES = {"abstain": 0.3, "top": 0.01, "floor": 0.1}
CERTAIN = np.zeros(2, np.float32)


def case(side=20, classes=(3,)):
    """P1 and P2 agree on a defect in the middle; everything certain."""
    p = np.zeros((side, side), np.uint8)
    p[5:10, 5:10] = classes[0] if classes else 0
    cam = np.stack([(p == k).astype(np.float32) for k in classes] or [np.zeros((side, side), np.float32)])
    return {
        "p1": p,
        "p2": p.copy(),
        "weight": np.ones((side, side), np.float16),
        "slot_class": np.array(classes or (0,), np.uint8),
        "cam": cam,
        "mean": cam.copy(),
        "reliability": CERTAIN,
    }


def test_agreed_pixels_carry_their_slot_and_the_views_certainty():
    given = case()
    given["weight"][6, 6], given["weight"][0, 0] = 0.25, 0.5
    target = agreement(**given, **RULES)
    assert (target.slot[5:10, 5:10] == 1).all()
    assert (target.slot[0] == 0).all()
    assert target.weight[6, 6] == 0.25
    assert target.weight[0, 0] == 0.5


def test_contradiction_teaches_nothing():
    given = case()
    given["p1"][0, 0] = 3
    target = agreement(**given, **RULES)
    assert target.slot[0, 0] == UNKNOWN
    assert target.weight[0, 0] == 0


@pytest.mark.parametrize("silent", ["p1", "p2"])
def test_where_one_abstains_the_other_counts_in_part(silent):
    given = case()
    given[silent][5:7, 5:10] = UNKNOWN
    target = agreement(**given, **RULES)
    assert (target.slot[5:7, 5:10] == 1).all()
    assert target.weight[5, 5] == pytest.approx(0.3)
    alone = agreement(**given, **{**RULES, "abstain": 0.0})
    assert (alone.slot[5:7, 5:10] == UNKNOWN).all()


def test_where_both_abstain_or_sam_missed_it_nothing_is_learned():
    given = case()
    given["p1"][0], given["p2"][0] = UNKNOWN, UNKNOWN
    given["p2"][5:7], given["weight"][5:7] = UNKNOWN, 0
    target = agreement(**given, **RULES)
    assert (target.weight[0] == 0).all()
    assert (target.weight[5:7] == 0).all()


def test_a_class_without_an_agreed_pixel_gets_its_strongest_ones():
    given = case(side=40)
    given["p1"][:] = 0
    given["mean"][0, 6, 7] = 0.9
    given["cam"][0] = 0.5
    target = agreement(**given, **RULES)
    chosen = target.slot == 1
    assert chosen.sum() == 16  # 1 % of 40²
    assert (given["cam"][0] * given["mean"][0])[chosen].min() >= 0.4
    assert (target.weight[chosen] > 0).all()


def test_no_defect_is_background_everywhere():
    target = agreement(**case(classes=()), **RULES)
    assert (target.slot == 0).all()
    assert (target.weight == 1).all()


def test_no_class_that_the_label_excludes():
    given = case(classes=(3,))
    given["p1"][0], given["p2"][0] = 7, 7
    target = agreement(**given, **RULES)
    assert set(np.unique(target.slot)) <= {0, 1, UNKNOWN}
    assert (target.slot[0] == UNKNOWN).all()


def test_the_cam_alone_decides_where_sam_saw_nothing():
    cam, mean = np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)
    cam[4, 4] = 0.8
    assert strongest(cam, mean, 0.01)[4, 4]
    assert strongest(cam, mean, 0.01).sum() == 1
    assert not strongest(mean, mean, 0.01).any()


@pytest.mark.parametrize(
    ("reliability", "expected"),
    [((0, 0), 1.0), ((0.5, 0), 0.5), ((0, 1), 0.5), ((0, np.inf), 0.1), ((1, 3), 0.1), ((np.nan, 0), 0.1)],
)
def test_unreliable_images_weigh_less(reliability, expected):
    assert trust(np.array(reliability, np.float32), 0.1) == pytest.approx(expected)
    given = case() | {"reliability": np.array(reliability, np.float32)}
    assert agreement(**given, **RULES).weight.max() == pytest.approx(expected)


def test_what_was_drawn_by_hand_outweighs_everything():
    target = agreement(**case(), **RULES)
    correction = np.zeros((20, 20), np.uint8)
    correction[0:4], correction[4:6], correction[6:8] = (
        3,
        255,
        9,
    )  # to be ignored; a class that the label lacks
    found = trusted(target, correction, np.array([3], np.uint8))
    assert (found.slot[:4] == 1).all()
    assert (found.slot[4:8] == UNKNOWN).all()
    assert (found.slot[8:] == 0).all()
    np.testing.assert_array_equal(found.weight, found.slot != UNKNOWN)


def marks(side=20):
    """An annotation with class 3 at the middle of the defect."""
    found = np.full((side, side), UNKNOWN, np.uint8)
    found[7, 7] = 3
    return found


def test_without_marks_nothing_is_changed():
    given = case()
    nothing = np.full((20, 20), UNKNOWN, np.uint8)
    assert heeding(given["p1"], given["p2"], nothing, given["slot_class"], given["cam"]) is given["p1"]
    target = agreement(**given, **RULES)
    for before, after in zip(target, with_marks(target, nothing, given["slot_class"]), strict=True):
        np.testing.assert_array_equal(before, after)


def test_where_the_only_class_is_marked_p2_decides_but_where_marks_confirm_the_cam():
    given = case()
    given["p1"][:] = 3
    given["p2"][6, 6] = given["p2"][0, 0] = 0
    found = heeding(given["p1"], given["p2"], marks(), given["slot_class"], given["cam"])
    assert (found[5:10, 5:10] == 3).all()
    outside = given["cam"][0] == 0
    np.testing.assert_array_equal(found[outside], given["p2"][outside])
    silent = heeding(given["p1"], given["p2"], marks(), given["slot_class"], 0 * given["cam"])
    np.testing.assert_array_equal(silent, given["p2"])


def test_the_cam_of_a_marked_class_speaks_where_marks_confirm_it():
    cam = np.zeros((2, 20, 20), np.float32)
    cam[0, 5:10, 5:10], cam[0, 10:12, 5:10], cam[0, 15:18, 15:18] = 0.9, 0.3, 0.9
    cam[1] = 0.1
    annotation = np.full((20, 20), UNKNOWN, np.uint8)
    assert spoken(cam, annotation, np.array([3, 5], np.uint8)).all(), "without marks it speaks everywhere"
    annotation[7, 7], annotation[19, 0] = 3, 3
    found = spoken(cam, annotation, np.array([3, 5], np.uint8))
    expected = np.zeros((20, 20), bool)
    expected[5:12, 5:10] = True
    np.testing.assert_array_equal(found[0], expected)
    assert found[1].all()


def test_a_class_without_marks_keeps_its_cam():
    given = case(classes=(3, 5))
    given["p1"][15:18, 15:18], given["p2"][15:18, 15:18] = 5, 0
    given["p1"][0, 0] = 3  # of the marked class: the CAM has no say
    p1 = heeding(given["p1"], given["p2"], marks(), given["slot_class"], given["cam"])
    assert (p1[15:18, 15:18] == 5).all()
    assert p1[0, 0] == given["p2"][0, 0] == 0


def test_marks_are_certain_in_an_unreliable_image_and_those_of_background_too():
    given = case() | {"reliability": np.array([0.9, np.inf], np.float32)}
    annotation = marks()
    annotation[8, 8] = 0  # P1 and P2 agree on a defect there, and are wrong
    target = with_marks(agreement(**given, **RULES), annotation, given["slot_class"])
    assert target.weight[6, 6] == pytest.approx(RULES["floor"])
    assert (target.slot[7, 7], target.weight[7, 7]) == (1, 1)
    assert (target.slot[8, 8], target.weight[8, 8]) == (0, 1)
