import numpy as np
import pytest

from tasks.doubt import Contradiction, contradiction_of, disagreement, doubt_of


def arrays(p, classes=(1,), score=(0.9, 0.2), confidence=0.8):
    shape = (len(classes), *p.shape)
    return {
        "slot_class": np.array(classes, np.uint8), "score": np.array(score, np.float32), "p1": p, "p2": p, "p": p,
        "mean": np.broadcast_to(p > 0, shape).astype(np.float32), "entropy": np.zeros(shape, np.float32),
        "confidence": np.full(p.shape, confidence, np.float16),
    }  # fmt: skip


def label(k=1):
    p = np.zeros((10, 12), np.uint8)
    p[2:5, 3:9] = k
    return p


def test_where_all_agree_there_is_no_doubt():
    found = doubt_of(arrays(label()))
    assert (found.entropy, found.disagreement, found.empty) == (0, 0, 0)
    assert found.confidence == pytest.approx(0.8, abs=1e-3)
    assert found.area == {1: 18}


def test_entropy_counts_where_a_view_sees_the_class():
    given = arrays(label())
    given["entropy"][:] = np.where(label() > 0, 0.5, 1.0)  # outside nobody has seen anything
    assert doubt_of(given).entropy == pytest.approx(0.5)


def test_a_class_that_p_lacks_is_as_bad_as_the_classifier_is_sure():
    p = label(1)
    assert doubt_of(arrays(p, classes=(1, 2), score=(0.9, 0.7))).empty == pytest.approx(0.7)
    assert doubt_of(arrays(np.zeros_like(p))).empty == pytest.approx(0.9)


def test_an_image_without_a_label_can_be_judged():
    found = doubt_of(arrays(np.zeros((4, 4), np.uint8), classes=(0,)))
    assert (found.empty, found.entropy, found.area) == (0, 0, {})


def test_disagreement_is_symmetric_and_counts_decided_pixels():
    a, b = label(1), np.roll(label(1), 3, axis=1)
    assert disagreement(a, b) == disagreement(b, a) == pytest.approx(2 / 3)
    assert disagreement(a, label(2)) == 1
    assert disagreement(a, np.full_like(a, 255)) == 1  # a class here, nothing decided there
    assert disagreement(np.zeros_like(a), np.full_like(a, 255)) == 0


@pytest.mark.parametrize(
    ("label", "score", "expected"),
    [
        ((1, 0), (0.05, 0.95), (1, 0.05, 2, 0.95)),  # another class
        ((2, 0), (0.05, 0.04), (2, 0.04, 0, 0.95)),  # none
        ((0, 0), (0.05, 0.95), (0, 0.05, 2, 0.95)),  # a defect on what is said to be good
        ((1, 2), (0.05, 0.02), (2, 0.02, 0, 0.95)),  # of two classes the one that is seen least
        ((1, 2), (0.05, 0.95), None),  # the label names what is seen
        ((1, 0), (0.2, 0.95), None),
        ((1, 0), (0.05, 0.8), None),
        ((1, 0), (0.95, 0.95), None),
        ((0, 0), (0.02, 0.03), None),
    ],
)
def test_a_contradiction_takes_a_class_denied_and_another_seen(label, score, expected):
    found = contradiction_of(np.array(label, np.uint8), np.array(score, np.float32))
    if expected is None:
        assert found is None
    else:
        assert isinstance(found, Contradiction)
        assert list(vars(found).values()) == pytest.approx(expected)


@pytest.mark.parametrize(("kept", "expected"), [(4, 0), (3, 0.5), (1, 5 / 6), (0, 1)])
def test_what_both_branches_see_and_p_does_not_show_is_missing(kept, expected):
    given = arrays(label())
    given["p"] = label()
    given["p"][:, 3 + kept : 9] = 0  # of six columns
    given["score"][0] = 0.3
    assert doubt_of(given).empty == pytest.approx(expected)
    given["p2"] = np.where(given["p"] == given["p1"], given["p1"], np.uint8(255))  # SAM does not know
    assert doubt_of(given).empty == pytest.approx(0 if kept else 0.3)
