"""Labels with their doubt: arrays in one npz an image, or 16-bit PNGs that any tool opens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tasks.export import Format, Sample, Target, grey_png, label_path, label_png, write_json
from tasks.written import wrote

FULL = 65535
UNTOLD = "no confidence: it is that of P, and these labels are not"


def write_npz(samples: Iterable[Sample], target: Target) -> list[str]:
    """An npz an image: label, confidence, and for each class of the image the share of SAM's views that see it.

    Without the confidence where it is that of other labels; so does `write_png16`.
    """
    paths = label_path(target.out, target.names, ".npz")
    for sample in samples:
        path = paths[sample.name]
        path.parent.mkdir(parents=True, exist_ok=True)
        used = sample.arrays["slot_class"] > 0
        partial = path.with_name(path.name + ".partial")
        confidence: dict[str, Any] = {"confidence": sample.arrays["confidence"]} if target.confident else {}
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                label=sample.label,
                **confidence,
                soft=sample.arrays["mean"][used],
                entropy=sample.arrays["entropy"][used],
                classes=sample.arrays["slot_class"][used],
            )
        partial.replace(path)
        wrote(path)
    said = ["soft and entropy: (class, y, x) in the order of `classes`, which holds class indices"]
    return said + [UNTOLD] * (not target.confident)


def write_png16(samples: Iterable[Sample], target: Target) -> list[str]:
    """label/ as indexed PNGs; confidence/ and soft/<class>/ as 16-bit grey PNGs, 65535 for 1."""
    paths = {
        part: label_path(target.out / part, target.names)
        for part in ("label", "confidence", *(f"soft/{k:03d}" for k in range(1, len(target.classes) + 1)))
    }
    for sample in samples:
        label_png(sample.label, paths["label"][sample.name])
        if target.confident:
            grey_png(_deep(sample.arrays["confidence"]), paths["confidence"][sample.name])
        mean = sample.arrays["mean"]
        for slot, k in enumerate(sample.arrays["slot_class"].tolist()):
            if k:
                grey_png(_deep(mean[slot]), paths[f"soft/{k:03d}"][sample.name])
    folders = {f"soft/{k:03d}": name for k, name in enumerate(target.classes, start=1)}
    write_json(target.out / "folders.json", folders, 1)
    said = ["soft/<index>: share of SAM's views that see the class, only for images whose label names it"]
    return said + [UNTOLD] * (not target.confident)


def _deep(values: np.ndarray) -> np.ndarray:
    """[0, 1] as 16 bits."""
    return np.asarray(np.round(np.clip(values.astype(np.float64), 0, 1) * FULL), np.uint16)


FORMATS = (
    Format(
        "npz",
        "arrays: label, confidence, soft labels, entropy",
        write_npz,
        "none",
        ("slot_class", "confidence", "mean", "entropy"),
    ),
    Format(
        "png16",
        "16-bit PNGs of confidence and soft labels",
        write_png16,
        "none",
        ("slot_class", "confidence", "mean"),
    ),
)
