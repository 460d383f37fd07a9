"""Stage ensemble: mean and entropy of the views' masks, and the label map P2."""

from __future__ import annotations

import numpy as np

from models.agreement import marked
from storage.arrays import ArraySpec
from tasks.prompt import cam_level, components
from tasks.stage import Arrays, Stage, counted

UNKNOWN = 255


def ensemble(
    *,
    mask: np.ndarray,
    cam: np.ndarray,
    annotation: np.ndarray,
    slot_class: np.ndarray,
    size: np.ndarray,
    low: float,
    high: float,
    limit: float,
    votes: int,
    missed: float,
) -> Arrays:
    """Mean (eq. 3), entropy (eq. 4), pixel weights and P2 of every image.

    mask: (image, slot, view, y, x) uint8 {0, 1, 255 no vote}; cam: (image, slot, y, x) float16 in [0, 1];
    annotation: (image, y, x) uint8 label map, 255 unmarked: of a class that the user marked, the CAM has no say.
    slot_class: (image, slot) uint8, 0 unused; size: (image, extent=2) uint16.
    low, high: CAM values up to which a pixel is background, from which it is foreground. limit: entropy in
    bits above which a pixel is uncertain. votes: fewest votes that make an entropy. missed: share of a CAM
    component below which SAM is said to have missed it.
    Returns arrays as declared in STAGE.
    """
    count, slots, _, rows, columns = mask.shape
    out: Arrays = {
        "mean": np.zeros((count, slots, rows, columns), np.float32),
        "entropy": np.zeros((count, slots, rows, columns), np.float32),
        "weight": np.zeros((count, rows, columns), np.float16),
        "p2": np.full((count, rows, columns), UNKNOWN, np.uint8),
        "reliability": np.zeros((count, 2), np.float32),
    }
    for n in counted(count):
        height, width = size[n].tolist()
        used = slot_class[n] > 0
        mean, entropy = agreement(mask[n, used, :, :height, :width], votes)
        heat = cam[n, used, :height, :width].astype(np.float32)
        classes = slot_class[n, used]
        trusted = marked(annotation[n, :height, :width], classes)
        p2, weight = label_map(
            mean, entropy, heat, classes, trusted, low=low, high=high, limit=limit, missed=missed
        )
        out["mean"][n, used, :height, :width] = mean
        out["entropy"][n, used, :height, :width] = entropy
        out["weight"][n, :height, :width] = weight
        out["p2"][n, :height, :width] = p2
        out["reliability"][n] = reliability(mean, entropy, p2, limit)
    return out


def agreement(mask: np.ndarray, votes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and entropy over views of one image (eq. 3, 4).

    mask: (slot, view, y, x) uint8 {0, 1, 255 no vote}; votes: fewest that make an entropy.
    Returns mean (slot, y, x) float32 in [0, 1], yes / votes, 0 where none was cast; entropy (slot, y, x)
    float32 in bits, 1 where there are fewer votes.
    """
    cast = (mask != UNKNOWN).sum(1)  # (slot, y, x)
    mean = ((mask == 1).sum(1) / np.maximum(cast, 1)).astype(np.float32)
    return mean, np.where(cast < votes, np.float32(1), binary_entropy(mean))


def binary_entropy(p: np.ndarray) -> np.ndarray:
    """Disagreement between views, per pixel (eq. 4).

    p: (...) float of any precision in [0, 1], the share of views that see the class.
    Returns (...) float32 in bits: exactly 0 where all views agree, 1 at an even split, never NaN.
    """
    q = np.asarray(p, np.float32)
    out = np.zeros_like(q)
    for share in (q, 1 - q):
        # the logarithm only where it is finite: an added epsilon would vanish in float16, or leave a bias
        some = share > 0
        out[some] -= share[some] * np.log2(share[some])
    return out


def p2_hard(mean: np.ndarray, slot_class: np.ndarray) -> np.ndarray:
    """P2°: the label map of the views' majority, without 255.

    mean: (..., slot, y, x) float32; slot_class: (..., slot) uint8, 0 unused. Returns (..., y, x) uint8: the
    class of the highest mean where that is at least ½, else 0. Padding is 0.
    """
    if mean.shape[-3] == 0:
        return np.zeros((*mean.shape[:-3], *mean.shape[-2:]), np.uint8)
    best = mean.argmax(-3)[..., None, :, :]  # (..., 1, y, x)
    classes = np.broadcast_to(slot_class[..., None, None], mean.shape)
    top, name = (np.take_along_axis(each, best, -3)[..., 0, :, :] for each in (mean, classes))
    return np.where(top >= 0.5, name, 0).astype(np.uint8)


def label_map(
    mean: np.ndarray,
    entropy: np.ndarray,
    heat: np.ndarray,
    classes: np.ndarray,
    trusted: np.ndarray,
    *,
    low: float,
    high: float,
    limit: float,
    missed: float,
) -> tuple[np.ndarray, np.ndarray]:
    """P2 and the weight of each pixel, for the true extent of one image.

    mean, entropy, heat: (slot, y, x) float32 of the used slots; classes: (slot,) uint8; trusted: (slot,) bool,
    where SAM was asked by the user; the rest as in `ensemble`. 255 where the views disagree (entropy above `limit`)
    or two classes claim a pixel alike, and, as all views may be wrong together, where `contradicted` says so; the
    weight is 0 on the last two.
    Returns p2 (y, x) uint8, weight (y, x) float16 = 1 − the highest entropy.
    """
    p2 = p2_hard(mean, classes)
    worst = entropy.max(0, initial=0)  # (y, x)
    wrong = ((mean >= 0.5) & (mean == mean.max(0, initial=0))).sum(0) > 1  # (y, x): a tie
    for s in np.flatnonzero(~trusted):
        wrong |= contradicted(p2 == classes[s], heat[s], low=low, high=high, missed=missed)
    weight = np.where(wrong, 0, 1 - worst).astype(np.float16)
    return np.where(wrong | (worst > limit), np.uint8(UNKNOWN), p2), weight


def contradicted(
    found: np.ndarray, heat: np.ndarray, *, low: float, high: float, missed: float
) -> np.ndarray:
    """Where SAM and the CAM flatly disagree about a class: low entropy is not correctness.

    found: (y, x) bool, SAM's label map for the class; heat: (y, x) float32, its CAM. A component of the CAM of
    which SAM marks less than the share `missed` ("SAM missed it"), and a piece of SAM's with a mean CAM below
    `low`. Both thresholds sink with a weak CAM as they do for prompts. Returns (y, x) bool.
    """
    wrong = np.zeros(found.shape, bool)
    if not heat.max() > 0:
        return found.copy()
    for piece in components(heat >= cam_level(heat, high, high)):
        here = piece.window
        if found[here][piece.region].mean() < missed:
            wrong[here] |= piece.region
    for piece in components(found):
        here = piece.window
        if heat[here][piece.region].mean() < cam_level(heat, low, high):
            wrong[here] |= piece.region
    return wrong


def reliability(mean: np.ndarray, entropy: np.ndarray, p2: np.ndarray, limit: float) -> tuple[float, float]:
    """How far an image's P2 can be trusted: lower is better.

    mean, entropy: (slot, y, x) float32; p2: (y, x) uint8. Returns Ua, the share of pixels above the entropy
    `limit` among those that any view claims, in [0, 1], and Ur, uncertain over certain foreground pixels:
    infinite where a labelled image has no certain one, 0 for an image without a label.
    """
    claimed = mean > 0
    ua = float((entropy[claimed] > limit).mean()) if claimed.any() else 0.0
    uncertain = int((p2 == UNKNOWN).sum())
    certain = int(((p2 > 0) & (p2 != UNKNOWN)).sum())
    if not len(mean):
        return 0.0, 0.0
    return ua, uncertain / certain if certain else float("inf")


STAGE = Stage(
    name="ensemble",
    version=2,
    function=ensemble,
    reads=("mask", "cam", "annotation", "slot_class", "size"),
    writes=(
        ArraySpec(
            name="mean",
            dims=("image", "slot", "y", "x"),
            dtype="float32",
            kind="probability",
            description="share of the votes cast that see the class (eq. 3)",
        ),
        ArraySpec(
            name="entropy",
            dims=("image", "slot", "y", "x"),
            dtype="float32",
            kind="probability",
            units="bit",
            description="disagreement of the views (eq. 4); 1 where too few voted",
        ),
        ArraySpec(
            name="weight",
            dims=("image", "y", "x"),
            dtype="float16",
            kind="probability",
            description="1 − the highest entropy; 0 where SAM and CAM contradict each other",
        ),
        ArraySpec(
            name="p2",
            dims=("image", "y", "x"),
            dtype="uint8",
            kind="label map",
            fill=UNKNOWN,
            description="P2, the label map from SAM's views; 255 uncertain",
        ),
        ArraySpec(
            name="reliability",
            dims=("image", "measure"),
            dtype="float32",
            kind="number",
            description="Ua: share of claimed pixels that are uncertain; Ur: uncertain over certain foreground",
        ),
    ),
    config=("ensemble",),
    summary="mean, entropy and P2 of the views' masks",
)
