"""Stage fuse: P, the label map that the fusion network makes of image, CAM and SAM's votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storage.arrays import ArraySpec
from tasks.ensemble import marked
from tasks.stage import Arrays, Stage

if TYPE_CHECKING:
    from models.fusion import Fusion, Precision

UNKNOWN = 255


def fuse(
    *,
    image: np.ndarray,
    size: np.ndarray,
    slot_class: np.ndarray,
    annotation: np.ndarray,
    cam: np.ndarray,
    mean: np.ndarray,
    entropy: np.ndarray,
    weight: np.ndarray,
    reliability: np.ndarray,
    score: np.ndarray,
    sha256: np.ndarray,
    model: Fusion,
    precision: Precision,
    views: int,
    doubtful: float,
    uncertain: float,
    absolute: float,
    relative: float,
    cap: float,
) -> Arrays:
    """Fuse what CAM and SAM say of every image of a block.

    image: (image, y, x, channel=3) uint8; size: (image, extent=2); slot_class: (image, slot) uint8, 0 unused;
    annotation: (image, y, x) uint8 label map of what the user marked, 255 where nothing: marked pixels stand in P as
    they are, with confidence 1, and of a class that is marked anywhere in an image the CAM has no say.
    cam, mean, entropy: (image, slot, y, x) in [0, 1]; weight: (image, y, x), 0 where nobody knows;
    reliability: (image, measure=2), Ua and Ur; score: (image, class), probability; sha256: (image, byte=32).
    model: networks of both folds; the one that was not trained on an image fuses it. views: flips and turns
    over which logits are averaged. The other keywords are those of `confidence_of`.
    Returns arrays as declared in STAGE. An image without a label is background everywhere; its confidence is
    1 − the highest score, as only the classifier can speak against the label.
    """
    from models.fusion import fold_of, heard, probabilities

    count, rows, columns = image.shape[:3]
    p = np.full((count, rows, columns), UNKNOWN, np.uint8)
    confidence = np.zeros((count, rows, columns), np.float16)
    for n in range(count):
        height, width = size[n].tolist()
        inside, used = (n, slice(height), slice(width)), slot_class[n] > 0
        classes = slot_class[n, used]
        if not len(classes):
            p[inside] = 0
            confidence[inside] = 1.0 - score[n].max(initial=0.0)
            continue
        evidence = np.stack([part[n, used, :height, :width] for part in (cam, mean, entropy)], 1)
        share = probabilities(
            model,
            image[inside],
            heard(evidence, weight[inside], marked(annotation[inside], classes)),
            fold_of(sha256[n]),
            views=views,
            precision=precision,
        )
        p[inside] = label_map(share, classes)
        doubts = is_doubtful(p[inside], classes, score[n], reliability[n], doubtful, absolute, relative)
        sure = confidence_of(share, weight[inside], doubts, uncertain=uncertain, cap=cap)
        given = np.isin(annotation[inside], [0, *classes])
        p[inside] = np.where(given, annotation[inside], p[inside])
        confidence[inside] = np.where(given, np.float16(1), sure)
    return {"p": p, "confidence": confidence}


def label_map(share: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The likeliest of background and the image's own classes; there is no 255, and no class it lacks.

    share: (1 + slot, y, x) probabilities, background first; classes: (slot,) uint8. Returns (y, x) uint8.
    """
    return np.asarray(np.concatenate([[0], classes])[share.argmax(0)], np.uint8)


def is_doubtful(
    p: np.ndarray,
    classes: np.ndarray,
    score: np.ndarray,
    reliability: np.ndarray,
    doubtful: float,
    absolute: float,
    relative: float,
) -> bool:
    """Whether an image as a whole is not to be trusted.

    p: (y, x) uint8; classes: (slot,) that its label names; score: (class,) probability by the ViT;
    reliability: (Ua, Ur). True where a class of the label scores below `doubtful` or has no pixel in P, or
    where Ua exceeds `absolute` or Ur `relative` (NaN exceeds both).
    """
    unseen = any(score[k - 1] < doubtful or not (p == k).any() for k in classes.tolist())
    return bool(unseen or not reliability[0] <= absolute or not reliability[1] <= relative)


def confidence_of(
    share: np.ndarray, weight: np.ndarray, doubts: bool, *, uncertain: float, cap: float
) -> np.ndarray:
    """Probability of the chosen class, times `cap` where flags say doubt: at most that, and still in order.

    share: (1 + slot, y, x); weight: (y, x), 1 − entropy and 0 where SAM missed a piece or invented one;
    doubts: of the whole image; uncertain: weight in [0, 1] below which a pixel is in doubt.
    Returns (y, x) float16.
    """
    best = share.max(0)
    flagged = np.full(best.shape, doubts) | (weight < uncertain)
    # scaled, not clipped: within doubt, pixels keep their order
    return np.asarray(np.where(flagged, cap * best, best), np.float16)


STAGE = Stage(
    name="fuse",
    version=2,
    function=fuse,
    reads=(
        "image", "size", "slot_class", "annotation", "cam", "mean", "entropy", "weight", "reliability", "score", "sha256",
    ),
    writes=(
        ArraySpec(
            name="p", dims=("image", "y", "x"), dtype="uint8", kind="label map", fill=UNKNOWN,
            description="P: label map of the fusion, without 255 inside the image",
        ),
        ArraySpec(
            name="confidence", dims=("image", "y", "x"), dtype="float16", kind="probability",
            description="probability of the class in P, scaled down to the cap where a flag says doubt",
        ),
    ),
    config=("fuse",),
    model="fusion",
    summary="the label map P from image, CAM and SAM's votes, with a confidence",
)  # fmt: skip
