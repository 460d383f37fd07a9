"""What the fusion network learns from: pixels where CAM and SAM agree, and how much each counts."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

UNKNOWN = 255
FOOT = 0.25
"""CAM value down to which what surrounds a mark is the same piece: the paper's L."""


class Target(NamedTuple):
    """Supervision of one image.

    slot: (y, x) uint8: 0 background, s the s-th slot (from 1), 255 none.
    weight: (y, x) float32 in [0, 1], 0 where there is none.
    """

    slot: np.ndarray
    weight: np.ndarray


def trust(reliability: np.ndarray, floor: float) -> float:
    """How much an image counts: (1 − Ua) / (1 + Ur), but never less than `floor`.

    reliability: (Ua, Ur), share of uncertain pixels where SAM saw anything, and uncertain over certain
    foreground (infinite where nothing is certain; NaN where nothing was asked counts as wholly unreliable).
    """
    absolute, relative = (float(v) for v in reliability)
    if np.isnan(absolute) or np.isnan(relative):
        return floor
    return max(floor, (1.0 - min(absolute, 1.0)) / (1.0 + relative))


def strongest(cam: np.ndarray, mean: np.ndarray, share: float) -> np.ndarray:
    """The pixels of one slot that are likeliest defect: the top `share` of cam · mean, where above 0.

    Where SAM saw nothing at all cam · mean is 0 everywhere, and the CAM alone decides.
    cam, mean: (y, x) in [0, 1]. Returns (y, x) bool, at least one pixel unless both are empty.
    """
    cam = cam.astype(np.float32)
    evidence = cam * mean
    if not evidence.any():
        evidence = cam
    count = max(1, round(share * evidence.size))
    best = np.argsort(evidence, axis=None, kind="stable")[-count:]
    chosen = np.zeros(evidence.size, bool)
    chosen[best] = True
    return np.asarray(chosen.reshape(evidence.shape) & (evidence > 0))


def agreement(
    p1: np.ndarray,
    p2: np.ndarray,
    weight: np.ndarray,
    slot_class: np.ndarray,
    cam: np.ndarray,
    mean: np.ndarray,
    reliability: np.ndarray,
    *,
    abstain: float,
    top: float,
    floor: float,
) -> Target:
    """Pixels that P1 and P2 call the same, weighted by the views' certainty and the image's reliability.

    Where one of them abstains (255) and the other does not, the other's word counts `abstain` times as much:
    without it nothing would be learned in the halo of a CAM, which is where the borders of defects lie.

    p1, p2: (y, x) uint8 label maps, 255 unknown; weight: (y, x), 1 − entropy; slot_class: (slot,) uint8, 0
    unused; cam, mean: (slot, y, x); reliability: (2,); abstain: in [0, 1]; top: share of pixels of
    `strongest`, for a class that has no agreed pixel; floor: least trust in an image.
    Returns a Target. An image without a label is background everywhere, with certainty.
    """
    if not slot_class.any():
        return Target(np.zeros(p1.shape, np.uint8), np.ones(p1.shape, np.float32))
    said = np.where(p1 == UNKNOWN, p2, p1)
    sure = (p1 == p2) & (said != UNKNOWN)
    alone = ((p1 == UNKNOWN) ^ (p2 == UNKNOWN)) * abstain
    amount = (sure + alone).astype(np.float32) * weight
    slot = np.where((amount > 0) & (said == 0), 0, UNKNOWN).astype(np.uint8)
    for n, k in enumerate(slot_class):
        if k:
            slot[(amount > 0) & (said == k)] = n + 1
            if not (sure & (p1 == k) & (weight > 0)).any():
                best = strongest(cam[n], mean[n], top)
                slot[best], amount[best] = n + 1, 1.0
    return Target(slot, np.asarray(amount * trust(reliability, floor), np.float32))


def heeding(
    p1: np.ndarray, p2: np.ndarray, annotation: np.ndarray, slot_class: np.ndarray, cam: np.ndarray
) -> np.ndarray:
    """P1 where a user has marked something: SAM was asked by the marks, so the CAM has a say where they confirm it.

    Elsewhere P2 alone decides of a marked class, and where all of an image's classes are marked it decides everything.
    p1, p2, annotation: (y, x) uint8 label maps, 255 unknown or unmarked; slot_class: (slot,) uint8, 0 unused; cam:
    (slot, y, x) in [0, 1]. Returns (y, x) uint8.
    """
    used = slot_class > 0
    here = np.isin(slot_class[used], annotation)
    if not here.any():
        return p1
    classes, marked = slot_class[used], slot_class[used][here]
    confirmed = spoken(cam[used][here], annotation, marked).any(0)
    alone = np.isin(p1, marked) | np.isin(p2, marked) | (len(marked) == len(classes))
    return np.asarray(np.where(alone & ~confirmed, p2, p1))


def spoken(cam: np.ndarray, annotation: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Where the CAM of each class may speak: of a class that the user marked, only where marks confirm it.

    That is in components of at least FOOT that a mark touches; of a class without marks everywhere.
    cam: (slot, y, x) in [0, 1]; annotation: (y, x) uint8 label map, 255 unmarked; classes: (slot,) uint8.
    Returns (slot, y, x) bool.
    """
    found = np.ones(cam.shape, bool)
    for n, k in enumerate(classes.tolist()):
        marks = annotation == k
        if marks.any():
            index = cv2.connectedComponents((cam[n] >= FOOT).astype(np.uint8), connectivity=8)[1]
            found[n] = np.isin(index, np.setdiff1d(index[marks], [0]))
    return found


def marked(annotation: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Which classes of an image the user marked: SAM was then asked by the marks.

    annotation: (y, x) uint8 label map, 255 unmarked; classes: (slot,) uint8. Returns (slot,) bool.
    """
    return np.isin(classes, annotation)


def with_marks(target: Target, annotation: np.ndarray, slot_class: np.ndarray) -> Target:
    """The target with what a user has marked, background too: it counts fully, however unreliable the image.

    annotation: (y, x) uint8 label map, 255 unmarked; slot_class: (slot,) uint8, 0 unused. A class without a slot
    teaches nothing.
    """
    slot, weight = target.slot.copy(), target.weight.copy()
    for value, place in [(0, 0), *((k, n + 1) for n, k in enumerate(slot_class) if k)]:
        here = annotation == value
        slot[here], weight[here] = place, 1
    return Target(slot, weight)


def trusted(target: Target, correction: np.ndarray, slot_class: np.ndarray) -> Target:
    """The target where a person has drawn the mask: what was drawn counts fully, and nothing else does.

    correction: (y, x) uint8 label map, 255 where it is to be ignored; slot_class: (slot,) uint8, 0 unused. A class
    that the image's label does not name has no slot, so its pixels teach nothing.
    """
    slot = np.where(correction == 0, np.uint8(0), np.uint8(UNKNOWN))
    for n, k in enumerate(slot_class):
        if k:
            slot[correction == k] = n + 1
    return Target(slot, np.asarray(slot != UNKNOWN, np.float32))


def evened(fore: float, back: float, balance: float) -> float:
    """Foreground's share of a loss: its share of the weight at balance 0, a half at balance 1, and where either is missing.

    fore, back: weights; balance: exponent in [0, 1] by which their ratio is evened out.
    """
    if fore == 0 or back == 0:
        return 0.5
    even = (fore / back) ** (1 - balance)
    return float(even / (1 + even))
