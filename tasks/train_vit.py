"""The dataset step that trains the CAM branch's network from the catalog's images and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def train(
    records: Iterable[Mapping[str, np.ndarray]],
    *,
    out: Path,
    state: Path,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
    report: Callable[[int, int, float], None] | None = None,
    **recipe: Any,
) -> str:
    """Trains on whole images.

    records: one an image: `image` (y, x, 3) uint8 without padding, `label` (class,) bool, perhaps narrower
    where its block is older than the newest class. recipe: the fields of `models.train_vit.Recipe`.
    out, state, device, precision, threads, report: of `models.train_vit.train_vit`.
    Returns the digest of the checkpoint. Raises ValueError where there is nothing to train on.
    """
    from models.train_vit import Recipe, train_vit

    pairs = [(record["image"], record["label"]) for record in records]
    classes = max((len(label) for _, label in pairs), default=0)
    if classes == 0:
        raise ValueError("train_vit: no image carries a class; label at least one image with a defect")
    labels = np.zeros((len(pairs), classes), bool)
    for row, (_, label) in zip(labels, pairs, strict=True):
        row[: len(label)] = label
    return train_vit(
        [image for image, _ in pairs], labels, Recipe(**recipe), out=out, state=state,
        device=device, precision=precision, threads=threads, report=report,
    )  # fmt: skip
