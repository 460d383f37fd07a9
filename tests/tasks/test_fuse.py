import cv2
import numpy as np
import pytest
import torch

from models.fusion import FOLDS, Fusion, FusionShape
from tasks.fuse import (
    STAGE,
    TEMPERATURE,
    TEMPERATURE_MARKED,
    confidence_of,
    doubted,
    fuse,
    label_map,
    tempered,
)

LIMITS = {"doubtful": 0.5}
SETTINGS = {**LIMITS, "views": 1, "guide": True, "cap": 0.5, "precision": "float32"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    fusion = Fusion(FusionShape((4, 4, 4, 4)), features=(5, 3))
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for net in fusion.appearances:
        net.trust.fill_(1)
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
        "score": np.tile(np.float32([0.9, 0.8, 0.7]), (count, 1)),
        "feature": rng.random((count, 5, 8, 8), np.float32).astype(np.float16),
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


def test_the_features_matter(model):
    given = block()
    other = given | {"feature": given["feature"][..., ::-1].copy()}
    first, second = (fuse(**arrays, model=model, **SETTINGS)["p"] for arrays in (given, other))
    assert (first[:2] != second[:2]).any()


@pytest.mark.parametrize("fold", range(FOLDS))
def test_the_look_is_asked_of_the_network_that_the_image_did_not_teach(fold):
    """Each fold's own network, `appearances[fold]`, was taught by the other fold; here the two say opposite things."""
    opposed = Fusion(FusionShape((4, 4, 4, 4)), features=(5, 3))
    for number, net in enumerate(opposed.appearances):
        torch.nn.init.zeros_(net.head.weight)
        torch.nn.init.constant_(net.head.bias, 50.0 if number == fold else -50.0)
        net.trust.fill_(1)
    given = block()
    given["cam"][:] = given["mean"][:] = 0.5  # nobody else speaks
    given["sha256"][:, -1] = [0, 1, 0]
    p = fuse(**given, model=opposed.eval(), **SETTINGS)["p"]
    assert set(np.unique(p[0, :20, :30])) == ({2} if fold == 0 else {0})
    assert (p[1, :24, :17] > 0).all() == (fold == 1)


@pytest.mark.parametrize("fold", [0, 1])
def test_of_a_marked_class_its_own_network_is_heard_as_far_as_marks_confirm_it(fold):
    """Of the look nothing is left, and of the convolutions neither, where the network that fuses the image is refuted."""
    given = one(block(), 0)
    given["sha256"][:, -1] = fold
    given["annotation"][0, 0, 0] = 2

    def made(look, stem, confirmed):
        torch.manual_seed(2)
        fusion = Fusion(FusionShape((4, 4, 4, 4)), features=(5, 3))
        torch.nn.init.normal_(fusion.nets[fold].head.weight, std=stem)
        torch.nn.init.normal_(fusion.appearances[fold].head.weight, std=look)
        for number, net in enumerate(fusion.appearances):
            net.trust.fill_(1)
            net.confirmed.fill_(confirmed if number == fold else 1 - confirmed)
        return fuse(**given, model=fusion.eval(), **SETTINGS)["confidence"]

    for changed in ((0.0, 3.0), (3.0, 0.0)):
        assert np.array_equal(made(0.0, 0.0, 0.0), made(*changed, 0.0))
        assert not np.array_equal(made(0.0, 0.0, 1.0), made(*changed, 1.0))


def test_confidence_is_a_probability_of_at_least_an_even_choice(model):
    """But where outlines overrule what is said."""
    given = block()
    given["weight"][:] = 1
    found = fuse(**given, model=model, **SETTINGS | {"doubtful": 0.0, "cap": 1.0, "guide": False})
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
    logits = np.array([[[4.0, 4.0, 1.0]], [[0, 0, 0]], [[-9, -9, 0.5]]])
    share = np.exp(logits) / np.exp(logits).sum(0)
    found = confidence_of(share, share, np.array([[False, True, True]]), 0.5)
    np.testing.assert_allclose(found, share.max(0) * [[1, 0.5, 0.5]], atol=1e-3)
    assert found[0, 1] > found[0, 2]


def test_what_is_all_but_sure_is_still_told_apart():
    logits = np.array([[[11.0, 10.5]], [[0, 0]]])
    share = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
    scaled = tempered(share, TEMPERATURE)
    expected = np.exp(logits / TEMPERATURE) / np.exp(logits / TEMPERATURE).sum(0)
    np.testing.assert_allclose(scaled, expected, rtol=1e-3)
    sure, less = confidence_of(scaled, scaled, np.zeros((1, 2), bool), 0.5)[0]
    assert 1 > sure > less


def test_confidence_is_that_of_the_class_that_the_outlines_decided_for():
    share, decided = np.array([[[0.7, 0.7]], [[0.3, 0.3]]]), np.array([[[0.9, 0.4]], [[0.1, 0.6]]])
    found = confidence_of((share + decided) / 2, decided, np.zeros((1, 2), bool), 0.5)
    np.testing.assert_allclose(found, [[0.8, 0.45]], atol=1e-3)


def test_outlines_follow_the_image_where_that_is_asked_for():
    """A dark square, of which CAM and SAM draw a softer one that is a pixel too far right and down."""
    given = one(block(sizes=((64, 64),), slots=((2, 0),)), 0)
    given["image"][:], given["entropy"][:], given["weight"][:] = 200, 0, 1
    given["image"][0, 16:40, 16:40] = 60
    drawn = np.zeros((64, 64), np.float32)
    drawn[17:41, 17:41] = 1
    for name in ("cam", "mean"):
        given[name][:], given[name][0, 0] = 0, cv2.GaussianBlur(drawn, (0, 0), 1.5)
    silent = Fusion(FusionShape((4, 4, 4, 4))).eval()  # neither look nor convolutions add anything
    truth = given["image"][0, ..., 0] == 60
    wrong = {
        guide: ((fuse(**given, model=silent, **SETTINGS | {"guide": guide})["p"][0] == 2) != truth).sum()
        for guide in (False, True)
    }
    assert wrong[False] > 80
    assert wrong[True] < 20


def test_confidence_beside_marks_is_not_lowered_because_the_look_is_heard_less(model):
    """Of the image's two classes: as long as one is not marked, the look speaks in full of it."""
    given = one(block(), 1)
    given["weight"][:], given["score"][:] = 1, 0.9
    classes = given["slot_class"][0]
    assert (classes > 0).all()
    assert TEMPERATURE_MARKED < TEMPERATURE

    def sure(*marks):
        annotation = given["annotation"].copy()
        annotation[0, 0, : len(marks)] = marks
        found = fuse(**given | {"annotation": annotation}, model=model, **SETTINGS)
        return found["confidence"][0, 1:20, :30].astype(float), found["p"][0]

    (one_marked, _), (both, p) = sure(classes[0]), sure(*classes)
    doubts = doubted(p, given["weight"][0], classes, given["score"][0], SETTINGS["doubtful"])[1:20, :30]
    assert not doubts.all()
    assert np.median(both[~doubts]) > np.median(one_marked[~doubts])


def test_marked_pixels_stand_and_the_cam_of_a_marked_class_is_heard_where_marks_confirm_it(model):
    given = one(block(), 1)
    cam = given["cam"][0, 1]  # of class 3, which is marked
    cam[:], cam[:8, :8], cam[12:18, 9:15] = 0.1, 0.9, 0.9
    given["annotation"][0, :3, :3], given["annotation"][0, 10, :5] = 3, 0
    found = fuse(**given, model=model, **SETTINGS)
    assert (found["p"][0, :3, :3] == 3).all()
    assert (found["p"][0, 10, :5] == 0).all()
    assert (found["confidence"][0, :3, :3] == 1).all()

    def with_cam(rows, columns, value):
        other = given | {"cam": given["cam"].copy()}
        other["cam"][0, 1, rows, columns] = value
        return fuse(**other, model=model, **SETTINGS)["confidence"]

    np.testing.assert_array_equal(with_cam(slice(12, 18), slice(9, 15), 0.0), found["confidence"])
    assert not np.array_equal(with_cam(slice(4, 8), slice(4, 8), 0.3), found["confidence"])
