"""The `cam` stage: class activation maps, normalised, and the label map P1 that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.arrays import ArraySpec
from tasks.stage import Stage, counted

if TYPE_CHECKING:
    from models.vit import ClassTokenViT

UNKNOWN = 255


def normalised(cam: np.ndarray, tau: float) -> np.ndarray:
    """Brings one CAM to [0, 1].

    cam: (y, x) float32 ≥ 0; tau: τ_c, the median over training images of the 3×3-smoothed maximum of this
    class. Divided by the larger of this image's smoothed maximum and τ_c / 2: plain min-max would hang on one
    outlier, and would always make some pixel 1, however weak the evidence.
    """
    from models.cams import smoothed_maximum

    scale = max(smoothed_maximum(cam), 0.5 * tau)
    return np.clip(cam / scale, 0, 1) if scale > 0 else np.zeros_like(cam)


def label_map(cam: np.ndarray, slot_class: np.ndarray, low: float, high: float) -> np.ndarray:
    """P1: the class where its CAM reaches `high`, background where all are at most `low`, 255 between.

    cam: (slot, y, x) float in [0, 1]; slot_class: (slot,) uint8, 0 for unused slots, whose CAM is 0.
    Returns (y, x) uint8.
    """
    strongest = cam.max(0)
    winner = np.where(strongest >= high, slot_class[cam.argmax(0)], UNKNOWN)
    return np.where(strongest <= low, 0, winner).astype(np.uint8)


def p1_hard(cam: np.ndarray, slot_class: np.ndarray, low: float, high: float) -> np.ndarray:
    """P1°, for comparisons: no 255; the class where the largest CAM reaches the middle of `low` and `high`.

    cam: (slot, y, x) float in [0, 1]; slot_class: (slot,) uint8. Returns (y, x) uint8.
    """
    return np.where(cam.max(0) >= (low + high) / 2, slot_class[cam.argmax(0)], 0).astype(np.uint8)


def _check(label: np.ndarray, slot_class: np.ndarray, classes: int, low: float, high: float) -> None:
    if not 0 <= low < high <= 1:
        raise ValueError(f"cam: low is {low} and high is {high}; expected 0 ≤ low < high ≤ 1")
    newest = max(int(slot_class.max(initial=0)), 1 + max(np.flatnonzero(label.any(0)), default=-1))
    if newest > classes:
        raise ValueError(
            f"cam: an image is labelled with class {newest}, but the network knows {classes} classes; "
            "train it anew on the labels as they are now"
        )


def _one_image(
    image: np.ndarray,
    slot_class: np.ndarray,
    model: ClassTokenViT,
    **how: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """(slot, y, x) float16 normalised CAM and (class,) float32 scores of one image without padding."""
    from models.cams import activate

    present = np.isin(np.arange(1, model.classes + 1), slot_class)
    seen = activate(model, image, present, **how)
    slots = np.zeros((len(slot_class), *image.shape[:2]), np.float16)
    for slot, which in enumerate(slot_class):
        if which:
            slots[slot] = normalised(seen.cam[which - 1], float(model.tau[which - 1]))
    return slots, seen.score


def cam(
    *,
    image: np.ndarray,
    size: np.ndarray,
    objectness: np.ndarray,
    label: np.ndarray,
    slot_class: np.ndarray,
    guided: bool,
    model: ClassTokenViT,
    precision: str,
    scales: Sequence[float],
    flip: bool,
    low: float,
    high: float,
    attention: bool,
    affinity: bool,
    adaptive: bool,
) -> dict[str, np.ndarray]:
    """Class activation maps of a block, for the classes that each image's label names.

    image: (image, y, x, 3) uint8; size: (image, 2) uint16 true height and width; objectness: (image, y, x) float16 in [0, 1],
    where it is `guided`; label: (image, class) bool, perhaps narrower than the network's classes; slot_class: (image, slot) uint8, 0 unused.
    precision: float32 or bfloat16. scales, flip, attention, affinity, adaptive: of `activate`. low, high: L and H.
    Returns cam (image, slot, y, x) float16 in [0, 1], 0 in padding and unused slots; score (image, class)
    float32, probabilities of all the network's classes; p1 (image, y, x) uint8, 255 uncertain and padding.
    Every image stands alone: no batch crosses images. Raises ValueError for a class that the network lacks.
    """
    _check(label, slot_class, model.classes, low, high)
    cams = np.zeros((*slot_class.shape, *image.shape[1:3]), np.float16)
    scores = np.zeros((len(image), model.classes), np.float32)
    p1 = np.full(image.shape[:3], UNKNOWN, np.uint8)
    for index in counted(len(image)):
        height, width = size[index].tolist()
        pixels = np.ascontiguousarray(image[index, :height, :width])
        slots, scores[index] = _one_image(
            pixels, slot_class[index], model, precision=precision, scales=scales, flip=flip,
            attention=attention, affinity=affinity, adaptive=adaptive,
            known=objectness[index, :height, :width] if guided else None,
        )  # fmt: skip
        cams[index, :, :height, :width] = slots
        p1[index, :height, :width] = label_map(slots, slot_class[index], low, high)
    return {"cam": cams, "score": scores, "p1": p1}


STAGE = Stage(
    name="cam",
    version=9,
    function=cam,
    reads=("image", "size", "objectness", "label", "slot_class"),
    writes=(
        ArraySpec(
            name="cam", dims=("image", "slot", "y", "x"), dtype="float16", kind="probability",
            description="class activation map of each class that the label names",
        ),
        ArraySpec(
            name="score", dims=("image", "class"), dtype="float32", kind="number",
            description="probability of each class in the image, by the ViT at the scale that it learned at",
        ),
        ArraySpec(
            name="p1", dims=("image", "y", "x"), dtype="uint8", kind="label map", fill=UNKNOWN,
            description="P1: label map from the CAM alone, 255 where it is unsure",
        ),
    ),
    config=("cam",),
    facts=("guided",),
    model="vit",
    summary="where the ViT sees each class that the label names",
)  # fmt: skip
