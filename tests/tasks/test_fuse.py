import numpy as np
import pytest
import torch

from models.fusion import Fusion, FusionShape
from tasks.fuse import STAGE, certainty, confidence_of, doubted, fuse, label_map

LIMITS = {"doubtful": 0.5}
SETTINGS = {**LIMITS, "views": 1, "cap": 0.5, "precision": "float32"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    fusion = Fusion(FusionShape((4, 4, 4, 4)))
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return fusion.eval()


def block(sizes=((20, 30), (24, 17), (9, 30)), slots=((2, 0), (1, 3), (0, 0)), seed=0):
    """Three images: one class, two classes, no defect."""
    rng = np.random.default_rng(seed)
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    count, shape = len(sizes), (len(sizes), 2, height, width)
    entropy = rng.random(shape, np.float32)
    return {
        "image": rng.integers(0, 256, (count, height, width, 3), np.uint8),
        "size": np.array(sizes, np.uint16),
        "slot_class": np.array(slots, np.uint8),
        "annotation": np.full((count, height, width), 255, np.uint8),
        "cam": rng.random(shape, np.float32).astype(np.float16),
        "mean": rng.random(shape, np.float32),
        "entropy": entropy,
        "weight": (1 - entropy.max(1)).astype(np.float16),
        "reliability": np.zeros((count, 2), np.float32),
        "score": np.tile(np.float32([0.9, 0.8, 0.7]), (count, 1)),
        "sha256": rng.integers(0, 256, (count, 32), np.uint8),
    }


def one(arrays, n):
    return {name: value[n : n + 1] for name, value in arrays.items()}


def test_it_gives_what_it_declares(model):
    given = block()
    found = fuse(**given, model=model, **SETTINGS)
    assert set(found) == {spec.name for spec in STAGE.writes}
    for spec in STAGE.writes:
        spec.check(found[spec.name])
    assert set(given) == set(STAGE.inputs)


def test_p_holds_the_labels_classes_only_and_255_just_in_padding(model):
    given = block()
    p = fuse(**given, model=model, **SETTINGS)["p"]
    for n, allowed in enumerate(({0, 2}, {0, 1, 3}, {0})):
        height, width = given["size"][n]
        assert set(np.unique(p[n, :height, :width])) <= allowed
        assert (p[n, height:] == 255).all()
        assert (p[n, :, width:] == 255).all()


def test_a_result_depends_on_its_image_alone(model):
    given = block()
    whole = fuse(**given, model=model, **SETTINGS)
    for n in range(3):
        height, width = given["size"][n].tolist()
        alone = {
            name: value[:, ..., :height, :width] if name in ("cam", "mean", "entropy", "weight") else value
            for name, value in one(given, n).items()
        }
        alone["image"] = alone["image"][:, :height, :width]
        found = fuse(**alone, model=model, **SETTINGS)
        for name in found:
            np.testing.assert_array_equal(found[name][0], whole[name][n, :height, :width])


def test_padding_does_not_count(model):
    given = block()
    other = {name: value.copy() for name, value in given.items()}
    for name in ("cam", "mean", "entropy"):
        other[name][1, :, 24:], other[name][1, ..., 17:] = 1, 1
    other["image"][1, :, 17:] = 255
    first, second = (fuse(**arrays, model=model, **SETTINGS) for arrays in (given, other))
    np.testing.assert_array_equal(first["p"], second["p"])


def test_the_image_matters(model):
    given = block()
    other = given | {"image": given["image"][..., ::-1, :].copy()}
    first, second = (fuse(**arrays, model=model, **SETTINGS)["p"] for arrays in (given, other))
    assert (first[:2] != second[:2]).any()


def test_confidence_is_a_probability_of_at_least_an_even_choice(model):
    given = block()
    given["weight"][:] = 1
    found = fuse(**given, model=model, **SETTINGS | {"doubtful": 0.0, "cap": 1.0})
    inside = found["confidence"][0, :20, :30]
    assert inside.min() >= 0.499
    assert inside.max() <= 1
    assert (found["confidence"][2, 9:] == 0).all()


def test_without_a_label_only_the_classifier_can_doubt(model):
    given, settings = block(), SETTINGS | {"doubtful": 0.1}
    for score, expected in ((0.85, 1.0), (0.95, 0.5)):
        given["score"][2] = [0.1, score, 0.2]
        found = fuse(**given, model=model, **settings)
        assert (found["confidence"][2, :9] == expected).all()


def test_the_likeliest_class_wins():
    share = np.array([[[0.5, 0.2]], [[0.3, 0.2]], [[0.2, 0.6]]])
    np.testing.assert_array_equal(label_map(share, np.array([4, 9], np.uint8)), [[0, 9]])


def doubt_of(**change):
    """Of an image of 4 × 4 pixels whose first row P calls class 2."""
    p = np.zeros((4, 4), np.uint8)
    p[0] = 2
    given = {
        "p": p,
        "weight": np.ones((4, 4)),
        "classes": np.array([2], np.uint8),
        "score": np.array([0.1, 0.9]),
    }
    return doubted(**given | change, **LIMITS)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({}, 0),
        ({"score": np.array([0.9, 0.4])}, 1),
        ({"p": np.zeros((4, 4), np.uint8)}, 4),
        ({"weight": np.float32([[0], [0], [1], [1]]) * np.ones((4, 4))}, 2),
    ],
)
def test_doubt_falls_on_what_is_called_a_defect_and_on_all_where_none_is_found(change, rows):
    expected = np.zeros((4, 4), bool)
    expected[:rows] = True
    np.testing.assert_array_equal(doubt_of(**change), expected)


def test_a_piece_is_as_certain_as_its_views_agree_on_it_and_in_its_image():
    p, weight = np.zeros((6, 6), np.uint8), np.ones((6, 6), np.float32)
    p[0, :2], p[4:, 4:] = 1, 2
    weight[0, 0] = 0.5  # a corner of the first piece
    found = certainty(p, weight, 0.0)
    np.testing.assert_allclose(found[0, :2], 0.75)
    np.testing.assert_allclose(found[4:, 4:], 1)
    assert (found[1:3] == 1).all()
    np.testing.assert_allclose(certainty(p, weight, 1.0)[p > 0], found[p > 0] / 2)
    for nothing in (np.inf, np.nan):
        unsure = certainty(p, weight, nothing)
        assert (unsure[p > 0] == 0).all()
        assert (unsure[p == 0] == 1).all()


def test_touching_pieces_of_two_classes_are_judged_apart():
    p, weight = np.zeros((4, 6), np.uint8), np.ones((4, 6), np.float32)
    p[:, 1:3], p[:, 3:5] = 1, 2
    weight[:, 3:5] = 0.2
    found = certainty(p, weight, 0.0)
    np.testing.assert_allclose(found[:, 1:3], 1)
    np.testing.assert_allclose(found[:, 3:5], 0.2, rtol=1e-5)


def test_an_unseen_class_casts_no_doubt_on_another():
    p = np.zeros((4, 6), np.uint8)
    p[:, 1:3], p[:, 3:5] = 1, 2
    found = doubted(p, np.ones((4, 6)), np.array([1, 2], np.uint8), np.array([0.99, 0.3]), **LIMITS)
    np.testing.assert_array_equal(found, p == 2)


def test_a_class_that_the_user_marked_is_found_somewhere(model):
    given = one(block(), 0) | {
        "cam": np.zeros((1, 2, 24, 30), np.float16),
        "mean": np.zeros((1, 2, 24, 30), np.float32),
    }
    given["entropy"][:], given["weight"][:] = 0, 1
    nothing = fuse(**given, model=model, **SETTINGS)
    assert (nothing["p"][0, :20, :30] == 0).mean() > 0.5
    given["annotation"][0, 3, 3] = 2
    found = fuse(**given, model=model, **SETTINGS)
    assert found["confidence"][0, :20, :30].astype(float).mean() > 0.6


def test_doubt_caps_confidence_and_keeps_its_order():
    share = np.array([[[0.95, 0.95, 0.45]], [[0.05, 0.05, 0.3]], [[0, 0, 0.25]]])
    found = confidence_of(share, np.ones((1, 3)), np.array([[False, True, True]]), 0.5)
    np.testing.assert_allclose(found, [[0.95, 0.475, 0.225]], atol=1e-3)


def test_without_certainty_a_class_is_as_likely_as_any():
    share = np.array([[[0.9, 0.9]], [[0.1, 0.1]]])
    found = confidence_of(share, np.array([[0.0, 0.5]]), np.zeros((1, 2), bool), 0.5)
    np.testing.assert_allclose(found, [[0.5, 0.75]], atol=1e-3)


def test_marked_pixels_stand_and_the_cam_of_a_marked_class_is_not_heard(model):
    given = one(block(), 1)
    plain = fuse(**given, model=model, **SETTINGS)
    given["annotation"][0, :3, :3], given["annotation"][0, 10, :5] = 3, 0
    found = fuse(**given, model=model, **SETTINGS)
    assert (found["p"][0, :3, :3] == 3).all()
    assert (found["p"][0, 10, :5] == 0).all()
    assert (found["confidence"][0, :3, :3] == 1).all()
    assert (found["p"] != plain["p"]).sum() > 14, "its CAM had a say before"
    other = {**given, "cam": given["cam"].copy()}
    other["cam"][0, 1] = 1 - other["cam"][0, 1]  # of class 3, which is marked
    np.testing.assert_array_equal(fuse(**other, model=model, **SETTINGS)["p"], found["p"])
