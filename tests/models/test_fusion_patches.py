import hashlib

import numpy as np
import pytest
import torch

from models.agreement import UNKNOWN
from models.appearance import Appearance
from models.fusion import BESIDE_MARKS, CHANNELS, EVIDENCE, heard, others_heard, turned_back
from models.fusion_patches import batch, cut, digest_of_patches, rob

RULES = {"abstain": 0.3, "top": 0.01, "floor": 0.1}
NOTHING = {"drop_cam": 0.0, "drop_sam": 0.0, "drop_all": 0.0}


def record(height=50, width=70, classes=(2,), seed=0):
    rng = np.random.default_rng(seed)
    p = np.zeros((height, width), np.uint8)
    p[20:30, 20:34] = classes[0]
    mean = np.stack([(p == k) * 1.0 for k in classes]).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (height, width, 3), np.uint8),
        "slot_class": np.array(classes, np.uint8),
        "cam": mean.astype(np.float16),
        "mean": mean,
        "entropy": np.zeros_like(mean),
        "p1": p,
        "p2": p,
        "weight": np.ones((height, width), np.float16),
        "annotation": np.full((height, width), UNKNOWN, np.uint8),
        "reliability": np.zeros(2, np.float32),
        "sha256": np.frombuffer(hashlib.sha256(bytes([seed])).digest(), np.uint8),
    }


def test_a_patch_is_a_window_of_the_image_and_of_all_that_is_known_of_it():
    given = record()
    for patch in cut(given, 32, 6, 0, **RULES):
        window = np.lib.stride_tricks.sliding_window_view(given["image"], (32, 32), (0, 1))
        y, x = np.argwhere((window == patch.image.transpose(2, 0, 1)).all((2, 3, 4)))[0]
        np.testing.assert_array_equal(patch.slot, given["p1"][y : y + 32, x : x + 32] // 2)
        np.testing.assert_array_equal(patch.evidence[0, 1], given["mean"][0, y : y + 32, x : x + 32] * 255)
        assert patch.inside.all()


def test_beyond_a_small_image_lies_its_mirror_and_no_target():
    patch = cut(record(40, 36), 64, 1, 0, **RULES)[0]
    assert patch.image.shape == (64, 64, 3)
    np.testing.assert_array_equal(patch.image[40], patch.image[38])
    assert not patch.inside[40:].any()
    assert not patch.inside[:, 36:].any()
    assert (patch.weight[40:] == 0).all()
    assert (patch.slot[:, 36:] == UNKNOWN).all()


def test_patches_depend_on_the_image_and_the_seed_alone():
    first, again, other = (digest_of_patches(cut(record(), 32, 4, seed, **RULES)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_half_of_the_patches_hold_something():
    given = record(200, 200)
    held = [(p.slot == 1).any() for p in cut(given, 32, 40, 0, **RULES)]
    assert 15 <= sum(held) <= 35


def test_no_defect_becomes_an_empty_slot_of_background():
    patch = cut(record(classes=(0,)), 32, 1, 0, **RULES)[0]
    assert patch.evidence.shape == (1, len(EVIDENCE), 32, 32)
    assert not patch.evidence.any()
    assert (patch.slot == 0).all()


def test_each_sample_has_one_fate_in_the_asked_shares():
    rng, evidence = np.random.default_rng(0), np.zeros((4, 1, 1), np.uint8)
    drawn = [
        tuple(rob(rng, evidence, drop_cam=0.35, drop_sam=0.35, drop_all=0.15)[:, 0, 0].tolist())
        for _ in range(4000)
    ]
    assert {fate[3] for fate in drawn} == {128}, "the look is always taken"
    drawn = [fate[:3] for fate in drawn]
    expected = {(128, 0, 0): 0.35, (0, 128, 255): 0.35, (128, 128, 255): 0.15, (0, 0, 0): 0.15}
    assert set(drawn) == set(expected)
    for fate, share in expected.items():
        assert drawn.count(fate) / 4000 == pytest.approx(share, abs=0.03)
    assert (evidence == 0).all()


def test_sam_is_not_heard_where_it_missed_a_piece():
    given = record()
    given["weight"] = given["weight"].copy()
    given["weight"][20:30, 20:34] = 0
    patch = cut(given, 70, 1, 0, **RULES)[0]
    piece = patch.evidence[0, :, 20:30, 20:34]
    assert (piece[0] == 255).all()
    assert (piece[1] == 128).all()
    assert (piece[2] == 255).all()
    assert (patch.evidence[0, 1:3, :20] == 0).all()


def test_beside_marks_the_look_says_less_and_sam_as_much():
    evidence = np.full((2, len(EVIDENCE), 3, 4), 0.9, np.float32)
    marks = np.full((3, 4), UNKNOWN, np.uint8)
    classes, net = np.array([2, 5], np.uint8), Appearance(4, 5)

    def heard_of():
        return heard(evidence, np.ones((3, 4)), marks, classes, others_heard(net, marks, classes))

    np.testing.assert_array_equal(heard_of(), evidence)
    marks[1, 1] = 5
    found = heard_of()
    np.testing.assert_array_equal(found[0], evidence[0])
    np.testing.assert_array_equal(found[1, :3], evidence[1, :3])
    np.testing.assert_allclose(found[1, 3], 0.5 + 0.4 * BESIDE_MARKS)
    net.confirmed[:] = torch.tensor([1, 0, 1, 1, 0.5])
    found = heard_of()
    np.testing.assert_allclose(found[1, 3], 0.5 + 0.2 * BESIDE_MARKS)
    np.testing.assert_array_equal(found[0], evidence[0], "where the image has no mark, marks refute nothing")


def test_of_a_marked_image_the_look_reaches_the_patches_as_it_reaches_the_stage():
    given = record(classes=(2, 5))
    look = np.full((2, *given["p1"].shape), 0.9, np.float32)
    given["annotation"][25, 25] = 5
    others = others_heard(None, given["annotation"], np.array([2, 5], np.uint8))
    patch = cut(given, 70, 1, 0, look, others, **RULES)[0]
    assert set(np.unique(patch.evidence[0, 3])) == {round(0.9 * 255)}
    assert set(np.unique(patch.evidence[1, 3])) == {round((0.5 + 0.4 * BESIDE_MARKS) * 255)}
    refuted = cut(given, 70, 1, 0, look, np.array([1, 0], np.float32), **RULES)[0]
    assert set(np.unique(refuted.evidence[0, 3])) == {round(0.9 * 255)}
    assert set(np.unique(refuted.evidence[1, 3])) == {128}


def test_a_batch_shows_each_patch_twice_turned_with_its_target():
    patches = cut(record(classes=(2, 5)), 32, 3, 0, **RULES)
    drawn = batch(patches, np.random.default_rng(0), **NOTHING)
    assert drawn.x.shape == (12, CHANNELS, 32, 32)
    assert drawn.owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert drawn.place.tolist() == [1, 2] * 6
    assert len(set(drawn.turn)) > 1
    for view, turn in enumerate(drawn.turn):
        patch = patches[view // 2]
        np.testing.assert_array_equal(turned_back(drawn.slot[view], turn), patch.slot)
        mean = turned_back(drawn.x[2 * view, 4], turn) + 0.5
        np.testing.assert_allclose(mean, patch.evidence[0, 1] / 255, atol=1e-6)


def test_only_undecided_pixels_inside_the_image_are_free():
    given = record(40, 40)
    given["p1"] = given["p1"].copy()
    given["p1"][:, :10] = 2  # against P2
    drawn = batch(cut(given, 64, 1, 0, **RULES), np.random.default_rng(0), **NOTHING)
    for view, turn in enumerate(drawn.turn):
        free = turned_back(drawn.free[view], turn)
        assert free[:40, :10].all()
        assert free.sum() == 400


def test_of_a_marked_class_the_cam_is_neither_target_nor_evidence_where_no_mark_confirms_it():
    given = record(classes=(2, 4))
    given["p1"] = np.full_like(given["p1"], 2)  # the CAM would have class 2 everywhere
    given["annotation"][25, 25], given["annotation"][0, 0] = 2, 0
    given["cam"][0, 20:30, 20:30] = 0  # the mark lies beside all that the CAM sees
    patches = cut(given, 32, 8, 0, **RULES)
    assert all((patch.evidence[0, 0] == 128).all() for patch in patches), "cam of class 2 says nothing"
    assert any(patch.evidence[1, 0].any() for patch in patches) == bool(given["cam"][1].any())
    for patch in patches:
        found = (patch.slot == 1) & (patch.weight > 0)
        np.testing.assert_array_equal(found, patch.evidence[0, 1] > 127, "P2 alone says where class 2 is")
