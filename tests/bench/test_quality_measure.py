"""The figures of `bench.quality`, on cases that can be counted by hand."""

import numpy as np
import pytest

from bench.quality_measure import (
    LEVELS,
    VALUES,
    Tally,
    Thresholds,
    auroc_of,
    calibration_error,
    class_aurocs,
    drop_curve,
)
from tasks.cam import p1_hard
from tasks.evaluate import Confusion, metrics


def by_pairs(values, positive):
    above = [(a > b) + 0.5 * (a == b) for a in values[positive] for b in values[~positive]]
    return np.mean(above)


def test_auroc_is_the_share_of_pairs_in_order_and_ties_count_half():
    assert auroc_of(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])) == 0.875
    assert auroc_of(np.full(5, 0.3), np.array([True, False, True, False, False])) == 0.5
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.3
    assert auroc_of(values, positive) == pytest.approx(by_pairs(values, positive))


def test_auroc_of_one_side_alone_is_not_defined():
    assert auroc_of(np.array([0.1, 0.2]), np.array([True, True])) is None
    score = np.array([[0.9, 0.5], [0.2, 0.7]])
    assert class_aurocs(score, np.array([[True, True], [False, True]]))["mean"] == 1.0


def test_levels_are_all_float16_numbers_from_0_to_1_in_order():
    assert VALUES[0] == 0
    assert VALUES[-1] == 1
    assert (np.diff(VALUES) > 0).all()


def tally(truth, p, confidence, classes=2):
    found = Tally(classes)
    found.add(np.array([truth], np.uint8), np.array([p], np.uint8), np.array([confidence], np.float16))
    return found


def test_confidence_is_judged_over_all_pixels_with_truth():
    found = tally([0, 0, 1, 255], [0, 1, 1, 2], [0.9, 0.2, 0.8, 0.1]).figures()
    assert found["auroc"] == found["auroc_defects"] == 1.0


def test_a_confidence_that_is_none_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        tally([0], [0], [1.5])
    with pytest.raises(ValueError, match="class"):
        tally([3], [0], [0.5])


def test_calibration_error_is_the_gap_between_confidence_and_truth():
    level = int(np.argmin(np.abs(VALUES - 0.75)))
    right, wrong = np.zeros(LEVELS), np.zeros(LEVELS)
    right[level], wrong[level] = 3, 1
    assert calibration_error(right, wrong) == 0
    right[level], wrong[level] = 1, 3
    assert calibration_error(right, wrong) == 0.5
    assert calibration_error(0 * right, 0 * wrong) is None


def test_only_predicted_defects_are_in_the_calibration_error():
    found = tally([1, 1, 0], [1, 1, 0], [1.0, 1.0, 0.0]).figures()
    assert found["ece"] == 0


def test_dropping_the_least_confident_leaves_them_out_of_everything():
    # 10 pixels called a defect, the least confident one wrong; one defect pixel missed
    truth, p = [1] * 9 + [0, 1, 0], [1] * 10 + [0, 0]
    confidence = [0.9] * 9 + [0.2, 0.8, 0.7]
    found = tally(truth, p, confidence, classes=1)
    assert drop_curve(found.table, (0, 0.1)) == pytest.approx([9 / 11, 9 / 10])


def test_of_equal_confidence_an_equal_share_goes():
    found = tally([1, 1, 0, 0], [1] * 4, [0.5] * 4, classes=1)
    assert drop_curve(found.table, (0, 0.1, 0.5)) == pytest.approx([0.5] * 3)


def maps(count=8, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(rng.integers(6, 20, 2))
        truth = rng.choice([0, 1, 2, 255], shape).astype(np.uint8)
        yield truth, np.where(rng.random(shape) < 0.6, truth % 255, 0).astype(np.uint8), rng.random(shape)


def test_nothing_dropped_is_the_foreground_miou_of_the_ruler():
    found, ruler = Tally(3), Confusion()
    for n, (truth, p, confidence) in enumerate(maps()):
        found.add(truth, p, confidence.astype(np.float16))
        ruler.add(truth, p, str(n))
    assert found.figures()["kept"] == pytest.approx(metrics(ruler, "abc")["mIoU_foreground"], abs=1e-12)


def halves(thresholds=(0.3, 0.8)):
    """Two halves, of each of which another CAM threshold gives the mask."""
    rng = np.random.default_rng(5)
    for half, threshold in enumerate(thresholds):
        cam = (rng.integers(0, 100, (1, 30, 40)) / 100 + 0.005).astype(np.float32)
        yield half, (cam[0] >= threshold).astype(np.uint8), cam


def test_a_threshold_is_picked_on_the_other_half():
    found, slot_class = Thresholds(1), np.array([1], np.uint8)
    ruler = Confusion()
    for half, truth, cam in halves():
        found.add(half, truth, cam, slot_class)
        other = (0.8, 0.3)[half]
        ruler.add(truth, p1_hard(cam, slot_class, other, other), str(half))
    picked = found.picked(["a"])
    assert picked["thresholds"] == [0.8, 0.3]
    assert picked["IoU"] == metrics(ruler, ["a"])["IoU"]
