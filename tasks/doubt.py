"""How doubtful a label is: figures of one image by which people look at the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

UNKNOWN = 255
UNSEEN, SEEN = 0.1, 0.9
"""Score below which the classifier denies a class, and above which it is sure of one: only flat contradictions are
told, as every other low score is what `fuse.doubtful` is for."""


@dataclass(frozen=True)
class Doubt:
    """Figures of one image, all in [0, 1]; more is worse, but for `confidence`.

    entropy: mean disagreement of the views in bits, where any view sees a class.
    disagreement: share of pixels that P1 and P2 decide differently, of those where either sees a class.
    confidence: mean confidence where P shows a class, over the image where it shows none.
    empty: highest score of a class that the label names but P does not show, or share that P does not show of what P1 and
        P2 both call a class, where it is half of that or more; 0 where P shows all.
    area: pixels of each class in P, by class index.
    """

    entropy: float
    disagreement: float
    confidence: float
    empty: float
    area: dict[int, int]


NEEDED = ("slot_class", "score", "p1", "mean", "entropy", "p2", "p", "confidence")
"""Arrays from which the figures are made."""


def doubt_of(arrays: Mapping[str, np.ndarray]) -> Doubt:
    """Figures of one image from its arrays of true extent, as named in NEEDED.

    slot_class: (slot,) uint8, 0 unused; score: (class,); p1, p2, p: (y, x) uint8 label maps, 255 undecided;
    mean, entropy: (slot, y, x); confidence: (y, x).
    """
    p, classes = arrays["p"], arrays["slot_class"][arrays["slot_class"] > 0]
    found, count = np.unique(p, return_counts=True)
    area = {int(k): int(n) for k, n in zip(found, count, strict=True) if 0 < k < UNKNOWN}
    missing = [float(arrays["score"][k - 1]) for k in classes.tolist() if k not in area]
    shown = (p > 0) & (p < UNKNOWN)
    sure = arrays["confidence"][shown] if shown.any() else arrays["confidence"]
    return Doubt(
        entropy=_mean(arrays["entropy"][arrays["mean"] > 0]),
        disagreement=disagreement(arrays["p1"], arrays["p2"]),
        confidence=_mean(sure),
        empty=max([*missing, _lost(arrays["p1"], arrays["p2"], p)], default=0.0),
        area=area,
    )


@dataclass(frozen=True)
class Contradiction:
    """A label that the classifier contradicts, in class indices; 0 stands for no defect.

    given: what the label names; said: what the classifier sees in its place; their scores in [0, 1].
    """

    given: int
    given_score: float
    said: int
    said_score: float


def contradiction_of(slot_class: np.ndarray, score: np.ndarray) -> Contradiction | None:
    """The flattest contradiction between an image's label and its scores, None where there is none.

    slot_class: (slot,) uint8, the label's classes, 0 unused; score: (class,) float32, probabilities of all classes.
    The score of no defect is one less the highest. What the label names counts only if it scores below UNSEEN, what it
    does not name only if it scores above SEEN.
    """
    every = np.concatenate([[1 - score.max(initial=0)], score]).astype(np.float64)  # (1 + class,)
    named = np.isin(np.arange(len(every)), slot_class[slot_class > 0] if slot_class.any() else 0)
    given = int(np.where(named, every, np.inf).argmin())
    said = int(np.where(named, -np.inf, every).argmax())
    if named.all() or every[given] >= UNSEEN or every[said] <= SEEN:
        return None
    return Contradiction(given, float(every[given]), said, float(every[said]))


def disagreement(p1: np.ndarray, p2: np.ndarray) -> float:
    """Share of pixels on which two label maps differ, of those that both decide and either calls a class.

    p1, p2: (y, x) uint8, 255 undecided. Returns a number in [0, 1], 0 where neither shows anything; 1 where one
    shows a class and the other decides nowhere.
    """
    claimed = ((p1 > 0) & (p1 < UNKNOWN)) | ((p2 > 0) & (p2 < UNKNOWN))
    both = claimed & (p1 != UNKNOWN) & (p2 != UNKNOWN)
    if not both.any():
        return float(claimed.any())
    return float((p1 != p2)[both].mean())


def _lost(p1: np.ndarray, p2: np.ndarray, p: np.ndarray) -> float:
    """Largest share, over classes, that P does not show of the pixels on which P1 and P2 agree; 0 below a half.

    The rest of the fusion, which has learned from other images, may be right there, but with few images to learn from it
    mostly is not: of 15 images of steel it lost 8912 of 10 494 such pixels of one, 6945 of them defects.
    """
    agreed = (p1 == p2) & (p1 > 0) & (p1 < UNKNOWN)
    share = max((float((p != k)[agreed & (p1 == k)].mean()) for k in np.unique(p1[agreed])), default=0.0)
    return share if share >= 0.5 else 0.0


def _mean(values: np.ndarray) -> float:
    return float(np.nan_to_num(values.astype(np.float64)).mean()) if values.size else 0.0
