"""COCO: masks as RLE by pycocotools, one annotation a piece (instances) or one a class and image (semantic)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from tasks.export import UNKNOWN, Format, Sample, Target, flat_names, place_image, write_json


def rle(mask: np.ndarray) -> dict[str, Any]:
    """A (y, x) bool mask as COCO's compressed run lengths, ready for JSON."""
    from pycocotools import mask as coco

    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in packed["size"]], "counts": packed["counts"].decode("ascii")}


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    """The (y, x) bool mask of what `rle` made."""
    from pycocotools import mask as coco

    return np.asarray(coco.decode({**packed, "counts": packed["counts"].encode("ascii")}), bool)


def pieces(label: np.ndarray, whole: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Class and (y, x) bool mask of every annotation: whole classes, or their 8-connected pieces."""
    for k in np.unique(label).tolist():
        if not 0 < k < UNKNOWN:
            continue
        if whole:
            yield k, label == k
            continue
        count, index = cv2.connectedComponents((label == k).astype(np.uint8), connectivity=8)
        for n in range(1, count):
            yield k, index == n


class _Document:
    """One part's JSON while it grows."""

    def __init__(self, classes: tuple[str, ...], whole: bool) -> None:
        self.whole = whole
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [
            {"id": k, "name": name, "supercategory": "defect"} for k, name in enumerate(classes, start=1)
        ]

    def add(self, sample: Sample, file_name: str) -> None:
        height, width = sample.label.shape
        image = len(self.images) + 1
        entry: dict[str, Any] = {"id": image, "file_name": file_name, "width": width, "height": height}
        if (sample.label == UNKNOWN).any():
            entry["ignore"] = rle(sample.label == UNKNOWN)
        self.images.append(entry | {"source": sample.name})
        for k, mask in pieces(sample.label, self.whole):
            self.annotations.append(self._annotation(image, k, mask))

    def _annotation(self, image: int, k: int, mask: np.ndarray) -> dict[str, Any]:
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        return {
            "id": len(self.annotations) + 1,
            "image_id": image,
            "category_id": k,
            "segmentation": rle(mask),
            "area": int(mask.sum()),
            "bbox": [x, y, width, height],
            "iscrowd": 0,
        }

    def value(self) -> dict[str, Any]:
        parts = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        return {"info": {"description": "made by bluemask"}, "licenses": [], **parts}


def _write(samples: Iterable[Sample], target: Target, *, whole: bool) -> list[str]:
    names = flat_names(target.names)
    documents = {part: _Document(target.classes, whole) for part in target.parts}
    ignored = 0
    for sample in samples:
        placed = place_image(sample, target.out / "images" / names[sample.name], target.images)
        documents[sample.part].add(sample, placed.name if target.images != "none" else sample.name)
        ignored += int((sample.label == UNKNOWN).any())
    for part, document in documents.items():
        kind = "semantic" if whole else "instances"
        write_json(target.out / "annotations" / f"{kind}_{part}.json", document.value())
    said = f"{ignored} images hold pixels to be ignored; COCO has no word for them: they stand as `ignore` at their image"
    return [said] if ignored else []


def write_instances(samples: Iterable[Sample], target: Target) -> list[str]:
    """One annotation a connected piece."""
    return _write(samples, target, whole=False)


def write_semantic(samples: Iterable[Sample], target: Target) -> list[str]:
    """One annotation a class and image."""
    return _write(samples, target, whole=True)


FORMATS = (
    Format("coco", "COCO instances: one RLE mask a piece", write_instances),
    Format("coco-semantic", "COCO: one RLE mask a class and image", write_semantic),
)
