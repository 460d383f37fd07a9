"""Patches to train the fusion network on: cut once from each image, then turned and robbed of evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.agreement import UNKNOWN, Target, agreement, heeding, trusted, with_marks
from models.fusion import EVIDENCE, UNSAID, fold_of, heard, planes, turned
from models.photometry import Contrast, contrast

Record = Mapping[str, np.ndarray]


class Patch(NamedTuple):
    """A square part of one image, in bytes, as it is kept for all of training.

    image: (y, x, channel) uint8; evidence: (slot, EVIDENCE, y, x) uint8, [0, 1] × 255; slot: (y, x) uint8, as in
    Target; weight: (y, x) uint8, [0, 1] × 255; inside: (y, x) bool, false where the image was mirrored
    outwards to fill the square; norm: contrast of the whole image; fold: of the image.
    """

    image: np.ndarray
    evidence: np.ndarray
    slot: np.ndarray
    weight: np.ndarray
    inside: np.ndarray
    norm: Contrast
    fold: int


class Batch(NamedTuple):
    """One step's input: two views of every patch, one row a slot.

    x: (row, CHANNELS, y, x) float32; owner: (row,) int64, index of the row's view; place: (row,) int64, its
    slot, from 1; slot: (view, y, x) int64, 255 none; weight: (view, y, x) float32; free: (view, y, x) bool,
    true where views are asked to agree instead; turn: (view,) which turn each was given. Views 2i and 2i + 1
    show patch i.
    """

    x: np.ndarray
    owner: np.ndarray
    place: np.ndarray
    slot: np.ndarray
    weight: np.ndarray
    free: np.ndarray
    turn: tuple[int, ...]


def _byte(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(np.clip(np.nan_to_num(x.astype(np.float32)), 0, 1) * 255), np.uint8)


def _corner(
    rng: np.random.Generator, shape: tuple[int, int], side: int, wanted: np.ndarray
) -> tuple[int, int]:
    """Top left of a window; every other one holds a pixel of `wanted`, where there is any."""
    most = [max(0, n - side) for n in shape]
    places = np.argwhere(wanted)
    if len(places) and rng.random() < 0.5:
        centre = places[rng.integers(len(places))]
        spots = [int(np.clip(c - rng.integers(side), 0, m)) for c, m in zip(centre, most, strict=True)]
    else:
        spots = [int(rng.integers(m + 1)) for m in most]
    return spots[0], spots[1]


def _window(x: np.ndarray, corner: tuple[int, int], side: int, **pad: Any) -> np.ndarray:
    """Cut a square out of the last two axes, filled up at the bottom and right where x is smaller."""
    part = x[..., corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    height, width = part.shape[-2:]
    margins = [(0, 0)] * (part.ndim - 2) + [(0, side - height), (0, side - width)]
    return np.ascontiguousarray(np.pad(part, margins, **pad))


def target_of(record: Record, **rules: float) -> Target:
    """What an image teaches: agreement of P1 and P2, marks, or the mask that somebody drew. rules: of `agreement`."""
    p1 = heeding(record["p1"], record["p2"], record["annotation"], record["slot_class"], record["cam"])
    target = agreement(
        p1, record["p2"], record["weight"], record["slot_class"], record["cam"], record["mean"],
        record["reliability"], **rules,
    )  # fmt: skip
    target = with_marks(target, record["annotation"], record["slot_class"])
    if "correction" in record:
        target = trusted(target, record["correction"], record["slot_class"])
    return target


def cut(
    record: Record,
    side: int,
    count: int,
    seed: int,
    look: np.ndarray | None = None,
    others: np.ndarray | None = None,
    **rules: float,
) -> list[Patch]:
    """Cut patches from one image at places that its digest and the seed decide.

    record: image (y, x, channel), slot_class (slot,), cam, mean, entropy (slot, y, x), p1, p2, weight, annotation
    (y, x), reliability (2,), sha256 (32,), all of the true extent; correction (y, x), a mask drawn by hand, where
    there is one. side: of a patch, in pixels; count: of patches; look: (used slot, y, x) in [0, 1] of
    `models.appearance.look`, None says nothing; others: (used slot,), of `others_heard`, None is all;
    rules: abstain, top and floor of `agreement`.
    """
    target = target_of(record, **rules)
    used = record["slot_class"] > 0
    said = np.stack([record[name] for name in EVIDENCE[:3]], 1)[used]  # (slot, 3, y, x)
    if look is None:
        look = np.full((len(said), *said.shape[2:]), UNSAID[3], np.float32)
    evidence = np.concatenate([said, look[:, None]], 1)
    if others is None:
        others = np.ones(len(said), np.float32)
    # as in the stage
    evidence = heard(evidence, record["weight"], record["annotation"], record["slot_class"][used], others)
    if not used.any():  # one empty slot teaches what a surface without a defect looks like
        evidence = np.zeros((1, len(EVIDENCE), *target.slot.shape), np.float32)
    rng = np.random.default_rng([seed, *record["sha256"]])
    wanted = ((target.slot > 0) & (target.weight > 0)) | (evidence[:, 0].max(0) > 0.5)
    layers = (record["image"].transpose(2, 0, 1), _byte(evidence))
    norm, fold = contrast(record["image"]), fold_of(record["sha256"])
    patches = []
    for _ in range(count):
        corner = _corner(rng, target.slot.shape, side, wanted)
        image, evidence_part = (_window(x, corner, side, mode="reflect") for x in layers)
        patches.append(
            Patch(
                image.transpose(1, 2, 0),
                evidence_part,
                _window(target.slot, corner, side, constant_values=UNKNOWN),
                _window(_byte(target.weight), corner, side),
                _window(np.ones(target.slot.shape, bool), corner, side),
                norm,
                fold,
            )
        )
    return patches


def digest_of_patches(patches: Sequence[Patch]) -> str:
    """Sha256 of all that training sees, so that a state saved from other data is not taken up.

    Not of the look, which is always taken away: on a GPU its networks are not the same from one training to the next.
    """
    total, shown = hashlib.sha256(), EVIDENCE.index("look")
    for patch in patches:
        for part in (patch.image, patch.evidence[:, :shown], patch.slot, patch.weight):
            total.update(np.ascontiguousarray(part).data)
        total.update(bytes([patch.fold]))
    return total.hexdigest()


def rob(
    rng: np.random.Generator, evidence: np.ndarray, *, drop_cam: float, drop_sam: float, drop_all: float
) -> np.ndarray:
    """Take evidence away, so that what is left must come from the image.

    Without this the network copies its inputs, which determine its target, and never looks at the image.
    evidence: (EVIDENCE, y, x) uint8, × 255. With probability drop_cam the CAM goes, with drop_sam
    SAM's mean and entropy, with drop_all everything; else nothing but the look, which is always taken: it was taught by
    the images that this network is to fuse. What is taken reads UNSAID: just what `heard` puts where SAM missed a
    piece. Returns a new array.
    """
    fate, gone = rng.random(), [3]
    if fate < drop_cam:
        gone = [0, 3]
    elif fate < drop_cam + drop_sam:
        gone = [1, 2, 3]
    elif fate < drop_cam + drop_sam + drop_all:
        gone = [0, 1, 2, 3]
    left = evidence.copy()
    left[gone] = _byte(np.array(UNSAID))[gone, None, None]
    return left


def batch(
    patches: Sequence[Patch], rng: np.random.Generator, *, drop_cam: float, drop_sam: float, drop_all: float
) -> Batch:
    """Two views of every patch, each turned and robbed of evidence by its own draw."""
    turns: list[int] = []
    rows, owner, place, slot, weight, free = [], [], [], [], [], []
    for patch in patches:
        for _ in range(2):
            turn, gain = int(rng.integers(8)), rng.uniform(0.7, 1.4)
            norm = Contrast(patch.norm.mean, patch.norm.deviation * gain)
            for n, evidence in enumerate(patch.evidence, start=1):
                robbed = rob(rng, evidence, drop_cam=drop_cam, drop_sam=drop_sam, drop_all=drop_all)
                rows.append(turned(planes(patch.image, robbed / 255.0, norm), turn))
                owner.append(len(turns))
                place.append(n)
            slot.append(turned(patch.slot, turn))
            weight.append(turned(patch.weight, turn) / 255.0)
            free.append(turned(patch.inside & (patch.weight == 0), turn))
            turns.append(turn)
    return Batch(
        np.stack(rows).astype(np.float32),
        np.array(owner),
        np.array(place),
        np.stack(slot).astype(np.int64),
        np.stack(weight).astype(np.float32),
        np.stack(free),
        tuple(turns),
    )
