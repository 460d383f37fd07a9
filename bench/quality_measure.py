"""Figures of label maps and confidences against masks: AUROC, calibration, what dropping doubtful pixels gains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.evaluate import IGNORE, Confusion, metrics

LEVELS = 15361
"""Float16 numbers from 0 to 1: their bit patterns, read as whole numbers, are in the order of their values."""
VALUES = np.arange(LEVELS, dtype=np.uint16).view(np.float16).astype(np.float64)
"""The number of each level."""
ECE_BINS = 15
"""Bins of equal width: the usual number."""
DROPPED = 0.1
"""Share of the pixels called a defect that is dropped, the least confident first."""
SHARES = tuple(n / 20 for n in range(15))
"""Shares of the curve that is drawn."""
STEPS = 20
"""CAM thresholds that are compared: 1/20 to 19/20."""


def auroc(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """Probability that a positive stands above a negative, ties counting half.

    positive, negative: (level,) counts, levels in rising order. None where either is empty.
    """
    pairs = float(positive.sum()) * float(negative.sum())
    if not pairs:
        return None
    below = np.cumsum(negative, dtype=np.float64) - negative
    return float((positive * (below + 0.5 * negative)).sum() / pairs)


def auroc_of(values: np.ndarray, positive: np.ndarray) -> float | None:
    """The same of single values. values: (n,) float; positive: (n,) bool."""
    levels, place = np.unique(values, return_inverse=True)
    counts = [np.bincount(place[side], minlength=len(levels)) for side in (positive, ~positive)]
    return auroc(counts[0], counts[1])


def class_aurocs(score: np.ndarray, has: np.ndarray) -> dict[str, float | None]:
    """AUROC of a classifier: `mean` over classes of "has the image the class", and of all pairs `pooled`.

    score: (image, class) float; has: (image, class) bool. A class that all images have, or none, does not count.
    """
    each = [auroc_of(score[:, k], has[:, k]) for k in range(has.shape[1])]
    known = [value for value in each if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "pooled": auroc_of(score.ravel(), has.ravel()),
    }


class Tally:
    """Pixels of a set by true class, class in P and confidence: all that follows needs no more."""

    def __init__(self, classes: int) -> None:
        """classes: without background."""
        self.table = np.zeros((classes + 1, classes + 1, LEVELS), np.int64)  # (truth, prediction, level)

    def add(self, truth: np.ndarray, p: np.ndarray, confidence: np.ndarray) -> None:
        """Count one image.

        truth: (y, x) uint8, where 255 is left out; p: (y, x) uint8 without 255; confidence: (y, x) float16 in [0, 1].
        Raises ValueError for a class or a confidence out of range.
        """
        kept = truth != IGNORE
        level = np.ascontiguousarray(confidence[kept].astype(np.float16)).view(np.uint16).astype(np.int64)
        found = truth[kept].astype(np.int64), p[kept].astype(np.int64), level
        shape = self.table.shape
        if any(part.size and part.max() >= most for part, most in zip(found, shape, strict=True)):
            raise ValueError(
                f"a pixel's class is not in 0 to {shape[0] - 1}, or its confidence not in [0, 1]"
            )
        flat = np.ravel_multi_index(found, shape)
        self.table += np.bincount(flat, minlength=self.table.size).reshape(shape)

    def right(self, defects: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(level,) counts of right and of wrong pixels; defects: only where P shows a class."""
        part = self.table[:, 1:] if defects else self.table
        right = np.stack([self.table[k, k] for k in range(int(defects), len(self.table))]).sum(0)
        return right, part.sum((0, 1)) - right

    def figures(self) -> dict[str, object]:
        """All figures of the confidence; shares in [0, 1], None where one is not defined."""
        sure, doubtful = self.right()
        kept, gone = drop_curve(self.table, (0.0, DROPPED))
        return {
            "auroc": auroc(sure, doubtful),
            "auroc_defects": auroc(*self.right(defects=True)),
            "ece": calibration_error(*self.right(defects=True)),
            "kept": kept,
            "dropped": gone,
            "shares": list(SHARES),
            "curve": drop_curve(self.table, SHARES),
            "reliability": reliability(*self.right(defects=True)),
        }


def _bins(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(3, bin): pixels, right ones, and the sum of their confidences."""
    place = np.minimum((VALUES * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    total = right + wrong
    return np.stack([np.bincount(place, part, ECE_BINS) for part in (total, right, total * VALUES)])


def calibration_error(right: np.ndarray, wrong: np.ndarray) -> float | None:
    """ECE: mean over pixels of |share right − mean confidence| of their bin.

    right, wrong: (level,) counts. None where there is no pixel.
    """
    pixels, hits, sure = _bins(right, wrong)
    return float(np.abs(hits - sure).sum() / pixels.sum()) if pixels.sum() else None


def reliability(right: np.ndarray, wrong: np.ndarray) -> list[list[float]]:
    """For each bin that holds a pixel: mean confidence, share right, share of the pixels."""
    pixels, hits, sure = _bins(right, wrong)
    return [
        [float(c / n), float(h / n), float(n / pixels.sum())]
        for n, h, c in zip(pixels, hits, sure, strict=True)
        if n
    ]


def drop_curve(table: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Foreground mIoU when a share of the pixels called a defect is left out, the least confident first.

    table: (truth, prediction, level) counts. A pixel that is left out counts nowhere, neither as right nor as wrong
    nor as missed; of pixels of equal confidence an equal share goes. What is called background all stays. Classes are
    those that truth or P show before anything is dropped.
    """
    called = table[:, 1:].sum((0, 1)).astype(np.float64)  # (level,)
    before = np.cumsum(called) - called
    whole = table.sum(2)
    seen = [k for k in range(1, len(table)) if whole[k].sum() + whole[:, k].sum()]
    curve = []
    for share in shares:
        gone = np.clip(share * called.sum() - before, 0, called)
        kept = 1 - np.divide(gone, called, out=np.zeros_like(called), where=called > 0)
        left = np.concatenate([whole[:, :1], (table[:, 1:] * kept).sum(2)], 1)
        curve.append(float(np.mean([_iou(left, k) for k in seen] or [0])))
    return curve


def _iou(table: np.ndarray, k: int) -> float:
    union = table[k].sum() + table[:, k].sum() - table[k, k]
    return float(table[k, k] / union) if union else 0.0


class Thresholds:
    """Pixels by half of the set, true class, the class with the largest CAM, and that CAM in steps of 1/20."""

    def __init__(self, classes: int) -> None:
        """classes: without background."""
        self.table = np.zeros((2, classes + 1, classes + 1, STEPS + 1), np.int64)

    def add(self, half: int, truth: np.ndarray, cam: np.ndarray, slot_class: np.ndarray) -> None:
        """Count one image. half: 0 or 1; truth: (y, x) uint8; cam: (slot, y, x) in [0, 1]; slot_class: (slot,)."""
        kept = truth != IGNORE
        step = np.floor(cam.max(0)[kept].astype(np.float32) * STEPS).astype(np.int64)
        found = truth[kept].astype(np.int64), slot_class[cam.argmax(0)][kept].astype(np.int64), step
        shape = self.table.shape[1:]
        flat = np.ravel_multi_index(found, shape)
        self.table[half] += np.bincount(flat, minlength=self.table[half].size).reshape(shape)

    def confusion(self, half: int, step: int) -> np.ndarray:
        """(truth, prediction) counts of a half where the class is called from step / 20 on."""
        table = self.table[half]
        called = table[..., step:].sum(2)
        called[:, 0] += table[..., :step].sum((1, 2))
        return np.asarray(called)

    def picked(self, names: Sequence[str]) -> dict[str, object]:
        """Metrics of P1° where each half is scored with the threshold that is best on the other one.

        names: of the classes. Adds `thresholds`, those of the first and the second half.
        """
        steps = [
            max(range(1, STEPS), key=lambda step, half=half: _miou(self.confusion(1 - half, step)))  # type: ignore[misc]
            for half in (0, 1)
        ]
        whole = Confusion()
        total = self.confusion(0, steps[0]) + self.confusion(1, steps[1])
        whole.table[: len(total), : len(total)] = total
        return metrics(whole, names) | {"thresholds": [step / STEPS for step in steps]}


def _miou(table: np.ndarray) -> float:
    seen = [k for k in range(len(table)) if table[k].sum() + table[:, k].sum()]
    return float(np.mean([_iou(table, k) for k in seen] or [0]))
