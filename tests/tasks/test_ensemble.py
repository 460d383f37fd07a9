"""Entropy is exact, too few votes are no agreement, and agreement of the views is not believed blindly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ensemble import STAGE, agreement, binary_entropy, contradicted, ensemble, p2_hard, reliability

SETTINGS = {"low": 0.25, "high": 0.7, "limit": 0.9, "votes": 3, "missed": 0.1}
SIZE = (20, 30)


def block(masks, heats, slot_class=(1,)):
    """One image; masks: per slot (view, y, x)."""
    return {
        "mask": np.stack(masks)[None].astype(np.uint8),
        "cam": np.stack(heats)[None].astype(np.float16),
        "annotation": np.full((1, *SIZE), 255, np.uint8),
        "slot_class": np.array([slot_class], np.uint8),
        "size": np.array([SIZE], np.uint16),
    }


def rectangle(top, left, bottom, right, value=1):
    out = np.zeros(SIZE)
    out[top:bottom, left:right] = value
    return out


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_entropy_is_exactly_zero_where_views_agree_and_one_at_an_even_split(dtype):
    found = binary_entropy(np.array([0, 1, 0.5], dtype))
    assert found.dtype == np.float32
    assert found.tolist() == [0, 0, 1]


def test_entropy_of_every_float16_is_finite_and_within_a_bit():
    every = np.arange(0, 0x3C01, dtype=np.uint16).view(np.float16)  # 0 to 1
    found = binary_entropy(every)
    assert np.isfinite(found).all()
    assert found.min() == 0
    assert found.max() == 1


@given(st.floats(0, 1, width=32))
def test_entropy_takes_no_side(p):
    assert binary_entropy(np.float32(p)) == pytest.approx(
        binary_entropy(np.float32(1) - np.float32(p)), abs=1e-5
    )


@given(st.lists(st.sampled_from([0, 1, 255]), min_size=1, max_size=9))
def test_mean_is_yes_over_votes_cast(column):
    mean, entropy = agreement(np.array(column, np.uint8).reshape(1, -1, 1, 1), votes=3)
    cast = [vote for vote in column if vote != 255]
    assert mean.item() == pytest.approx(sum(cast) / len(cast) if cast else 0)
    assert entropy.item() == (1 if len(cast) < 3 else binary_entropy(mean).item())


def test_p2_takes_the_majority_and_marks_disagreement():
    votes = np.stack([rectangle(5, 5, 15, 15 + 2 * (j % 2)) for j in range(8)])
    out = ensemble(**block([votes], [rectangle(5, 5, 15, 17)], slot_class=(3,)), **SETTINGS)
    assert (out["p2"][0, 5:15, 5:15] == 3).all()
    assert (out["p2"][0, 5:15, 15:17] == 255).all()  # four of eight
    assert (out["weight"][0, 5:15, 15:17] == 0).all()
    assert out["p2"][0, 0, 0] == 0
    assert out["weight"][0, 0, 0] == 1


def test_what_all_views_miss_is_not_certain_background():
    heat = rectangle(5, 5, 15, 15)
    out = ensemble(**block([np.zeros((8, *SIZE))], [heat]), **SETTINGS)
    assert (out["entropy"] == 0).all()
    assert (out["p2"][0][heat > 0] == 255).all()
    assert (out["weight"][0][heat > 0] == 0).all()
    assert (out["p2"][0][heat == 0] == 0).all()


def test_what_sam_finds_where_the_cam_is_dark_is_not_certain():
    votes = np.stack([rectangle(5, 5, 15, 15) + rectangle(2, 22, 6, 28)] * 8)
    out = ensemble(**block([votes], [rectangle(5, 5, 15, 15)]), **SETTINGS)
    assert (out["p2"][0, 5:15, 5:15] == 1).all()
    assert (out["p2"][0, 2:6, 22:28] == 255).all()
    assert (out["weight"][0, 2:6, 22:28] == 0).all()


def test_a_component_found_in_part_is_not_missed():
    heat = rectangle(0, 0, 10, 10).astype(np.float32)
    found = rectangle(0, 0, 1, 10).astype(bool)
    assert not contradicted(found, heat, low=0.25, high=0.7, missed=0.1).any()
    found[0, :1] = False
    assert contradicted(found, heat, low=0.25, high=0.7, missed=0.1)[5, 5]


def test_two_classes_with_the_same_claim_are_uncertain():
    votes = np.stack([rectangle(5, 5, 15, 15)] * 8)
    out = ensemble(**block([votes, votes], [rectangle(5, 5, 15, 15)] * 2, slot_class=(1, 2)), **SETTINGS)
    assert (out["p2"][0, 5:15, 5:15] == 255).all()


def test_the_slot_with_more_votes_wins_and_its_class_is_named():
    first, second = (np.stack([rectangle(5, 5, 15, 15) * (j < n) for j in range(8)]) for n in (1, 8))
    mean, _ = agreement(np.stack([first, second]).astype(np.uint8), 3)
    hard = p2_hard(mean, np.array([4, 2], np.uint8))
    assert set(np.unique(hard)) == {0, 2}
    np.testing.assert_array_equal(p2_hard(mean[None], np.array([[4, 2]], np.uint8))[0], hard)


def test_p2_without_255_knows_only_classes_and_background():
    mean = np.random.default_rng(0).random((3, 2, *SIZE), np.float32)
    hard = p2_hard(mean, np.array([[1, 2], [2, 3], [5, 0]], np.uint8))
    assert set(np.unique(hard)) <= {0, 1, 2, 3, 5}
    assert ((hard == 0) | (mean.max(1) >= 0.5)).all()


def test_fewer_votes_than_needed_are_uncertain():
    votes = np.full((8, *SIZE), 255)
    votes[:2] = 1
    out = ensemble(**block([votes], [rectangle(0, 0, 20, 30)]), **SETTINGS)
    assert (out["entropy"] == 1).all()
    assert (out["p2"] == 255).all()


def test_an_image_without_a_label_is_background_all_over():
    out = ensemble(**block([np.full((8, *SIZE), 255)], [np.zeros(SIZE)], slot_class=(0,)), **SETTINGS)
    assert (out["p2"] == 0).all()
    assert (out["weight"] == 1).all()
    assert not out["mean"].any()
    assert not out["entropy"].any()
    assert out["reliability"].tolist() == [[0, 0]]


def test_padding_is_unknown_and_weighs_nothing():
    arrays = block([np.stack([rectangle(5, 5, 9, 9)] * 8)], [rectangle(5, 5, 9, 9)])
    arrays["size"] = np.array([[12, 11]], np.uint16)
    out = ensemble(**arrays, **SETTINGS)
    assert (out["p2"][0, 12:] == 255).all()
    assert (out["p2"][0, :, 11:] == 255).all()
    assert not out["weight"][0, 12:].any()
    assert (out["p2"][0, :12, :11] != 255).all()


def test_reliability_tells_agreement_from_disagreement():
    sure = np.stack([rectangle(5, 5, 15, 15)] * 8)
    torn = np.stack([rectangle(5, 5, 15, 15) * (j % 2) for j in range(8)])
    heat = rectangle(5, 5, 15, 15)
    measured = [ensemble(**block([votes], [heat]), **SETTINGS)["reliability"][0] for votes in (sure, torn)]
    assert measured[0].tolist() == [0, 0]
    assert measured[1].tolist() == [1, np.inf]


def test_uncertain_over_certain_is_a_ratio_of_pixels():
    mean = np.array([[[1, 1, 0.5, 0]]], np.float32)
    p2 = np.array([[1, 1, 255, 0]], np.uint8)
    assert reliability(mean, binary_entropy(mean), p2, 0.9) == pytest.approx((1 / 3, 0.5))


def test_arrays_are_as_declared():
    out = ensemble(**block([np.zeros((8, *SIZE))], [rectangle(5, 5, 9, 9)]), **SETTINGS)
    assert {spec.name for spec in STAGE.writes} == set(out)
    for spec in STAGE.writes:
        spec.check(out[spec.name])


def test_what_the_user_marked_is_not_silenced_by_a_cam_that_looks_elsewhere():
    given = block([np.stack([rectangle(2, 2, 8, 8)] * 4)], [rectangle(12, 20, 18, 28)])
    assert (ensemble(**given, **SETTINGS)["p2"][0, 2:8, 2:8] == 255).all()
    given["annotation"][0, 4, 4] = 1
    out = ensemble(**given, **SETTINGS)
    assert (out["p2"][0, 2:8, 2:8] == 1).all()
    assert (out["weight"][0] == 1).all()
    given["annotation"][0, 4, 4] = 0  # background alone is marked: SAM is still asked by the CAM
    assert (ensemble(**given, **SETTINGS)["p2"][0, 2:8, 2:8] == 255).all()
