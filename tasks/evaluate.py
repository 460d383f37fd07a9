"""Scores against ground truth: ACC, IoU of each class, mIoU (eq. 5 to 7), from one confusion matrix a set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

IGNORE = 255
LISTED = 3
"""Most masks of one name that an error spells out."""


class EvaluationError(ValueError):
    """Labels and ground truth do not fit together; the message names the file."""


class Confusion:
    """Pixels by true and predicted value, over a whole set: never a mean of values per image."""

    def __init__(self) -> None:
        """Empty."""
        self.table = np.zeros((256, 256), np.int64)  # (truth, prediction)
        self.images = 0

    def add(self, truth: np.ndarray, prediction: np.ndarray, name: str) -> None:
        """Count one image.

        truth, prediction: (y, x) uint8 label maps; name: for the error. Raises EvaluationError where their
        sizes differ.
        """
        if truth.shape != prediction.shape:
            raise EvaluationError(
                f"{name}: its label is {prediction.shape[1]} × {prediction.shape[0]} pixels, "
                f"the mask {truth.shape[1]} × {truth.shape[0]}"
            )
        pairs = truth.astype(np.int64).ravel() * 256 + prediction.ravel()
        self.table += np.bincount(pairs, minlength=65536).reshape(256, 256)
        self.images += 1


class Match:
    """Whether masks count the classes as the store does."""

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names from index 1, as the store has them."""
        self.classes = list(classes)
        self._shown: set[int] = set()
        self._with_defect = 0
        self._bare = 0  # masks of 0 and 255 alone, of images that are said to have a defect
        self._others: list[str] = []  # masks without any class of their image's label
        self._unexpected: list[str] = []  # masks with a defect, of images that are said to have none

    def add(self, truth: np.ndarray, labels: Collection[str], path: Path) -> None:
        """Take in one mask.

        truth: (y, x) uint8; labels: classes that its image is said to show; path: of the mask. Raises EvaluationError
        for a value that is no class of the store.
        """
        found = set(np.unique(truth).tolist())
        self._shown |= found
        values = found - {0, IGNORE}
        if strange := sorted(value for value in values if value > len(self.classes)):
            raise EvaluationError(f"{path}: value {strange[0]} is no class of the store; {self._expected()}")
        wanted = {self.classes.index(name) + 1 for name in labels}
        self._with_defect += bool(values)
        self._bare += bool(IGNORE in found and not values and wanted)
        if values and not wanted:
            self._unexpected.append(path.name)
        elif values and not values & wanted:
            self._others.append(path.name)

    def _expected(self) -> str:
        named = ", ".join(f"{k} {name}" for k, name in enumerate(self.classes, start=1))
        return f"in masks for this store 0 is background, {named}, and 255 pixels that do not count"

    def notes(self) -> list[str]:
        """What looks wrong, a sentence each.

        Raises EvaluationError where no mask shows any class but some, of images with a defect, have 255: masks of another kind.
        """
        if not self._with_defect and self._bare:
            raise EvaluationError(
                f"the masks show no class at all, only 0 and 255: if 255 is meant for a defect, write its class instead; "
                f"{self._expected()}"
            )
        found = []
        if self._others:
            found.append(
                f"{len(self._others)} of {self._with_defect} masks with a defect, {self._others[0]} the first, without any "
                f"class of their image's label: are the classes numbered alike? {self._expected()}"
            )
        if self._unexpected:
            found.append(
                f"{len(self._unexpected)} of {self._with_defect} masks with a defect, {self._unexpected[0]} the first, whose "
                "image is labelled as having none: the label may be wrong"
            )
        if missing := [name for k, name in enumerate(self.classes, start=1) if k not in self._shown]:
            found.append(f"no mask shows {', '.join(map(repr, missing))}")
        return found


def metrics(confusion: Confusion, names: Sequence[str]) -> dict[str, object]:
    """ACC, IoU by class, mIoU with background, and foreground mIoU, all shares in [0, 1].

    names: of the classes, from 1. Truth 255 is left out; a predicted 255 is no answer, so it counts as wrong,
    and `ignored` is its share.
    """
    table = confusion.table[:IGNORE]
    titles = ["background", *names]
    iou: dict[str, float] = {}
    for k in range(IGNORE):
        seen = table[k].sum() + table[:, k].sum()
        if seen:
            iou[titles[k] if k < len(titles) else str(k)] = float(table[k, k] / (seen - table[k, k]))
    foreground = [value for name, value in iou.items() if name != "background"]
    total = max(1, int(table.sum()))
    return {
        "images": confusion.images,
        "ACC": float(np.trace(table[:, :IGNORE]) / total),
        "mIoU": float(np.mean(list(iou.values()) or [0])),
        "mIoU_foreground": float(np.mean(foreground or [0])),
        "ignored": float(table[:, IGNORE].sum() / total),
        "IoU": iou,
    }


def find_masks(folder: Path, images: Sequence[str]) -> dict[str, Path]:
    """The ground truth of each image: the PNG of the same relative path, else the only one of its stem.

    folder: of label PNGs; images: paths relative to the image folder. Raises EvaluationError where an image
    has none, or several of its stem.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder; give the one with the ground-truth PNGs")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        by_stem.setdefault(path.stem, []).append(path)
    found = {}
    for image in images:
        same = folder / PurePosixPath(image).with_suffix(".png")
        candidates = [same] if same.is_file() else by_stem.get(PurePosixPath(image).stem, [])
        if not candidates:
            raise EvaluationError(f"{image}: no mask of that name below {folder}; expected {same}")
        if len(candidates) > 1:
            raise EvaluationError(
                f"{image}: {len(candidates)} masks of that name below {folder}: {_listed(candidates)}; "
                f"move the right one to {same}"
            )
        found[image] = candidates[0]
    return found


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
    return ", ".join(map(str, paths[:LISTED])) + more


def otsu_label_map(image: np.ndarray, slot_class: np.ndarray) -> np.ndarray:
    """The reference without any network: one Otsu threshold an image, the smaller side is the defect.

    image: (y, x, channel=3) uint8; slot_class: (slot,) uint8, of which the first class that is present is
    given to the defect. Returns (y, x) uint8; all background where no class is present.
    """
    present = slot_class[slot_class > 0]
    grey = image.mean(2).round().astype(np.uint8)
    if not len(present):
        return np.zeros(grey.shape, np.uint8)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    bright = grey > level
    defect = bright if bright.mean() <= 0.5 else ~bright
    return np.asarray(defect * present[0], np.uint8)
