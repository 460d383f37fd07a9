"""The dataset step that trains the CAM branch's network from the catalog's images and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.spool import Lazy
from models.telling import Report


def train(
    records: Sequence[Mapping[str, np.ndarray]],
    *,
    out: Path,
    state: Path,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
    report: Report | None = None,
    **recipe: Any,
) -> str:
    """Trains on whole images.

    records: one an image, read more than once, so that they may come from disk: `image` (y, x, 3) uint8 without
    padding, `label` (class,) bool, perhaps narrower where its block is older than the newest class.
    recipe: the fields of `models.train_vit.Recipe`.
    out, state, device, precision, threads, report: of `models.train_vit.train_vit`.
    Returns the digest of the checkpoint. Raises ValueError where there is nothing to train on.
    """
    from models.train_vit import Recipe, train_vit

    given = [record["label"] for record in records]
    classes = max(map(len, given), default=0)
    if classes == 0:
        raise ValueError("train_vit: no image carries a class; label at least one image with a defect")
    labels = np.zeros((len(given), classes), bool)
    for row, label in zip(labels, given, strict=True):
        row[: len(label)] = label
    return train_vit(
        Images(records), labels, Recipe(**recipe), out=out, state=state,
        device=device, precision=precision, threads=threads, report=report,
    )  # fmt: skip


class Images(Lazy[np.ndarray]):
    """The images of records, each read when asked for."""

    def __init__(self, records: Sequence[Mapping[str, np.ndarray]]) -> None:
        """records: with `image`."""
        self._records = records

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def row(self, place: int) -> np.ndarray:
        """One image."""
        return self._records[place]["image"]
