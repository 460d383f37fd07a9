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

    records: one an image, read more than once, so that they may come from disk: `image` (y, x, 3) uint8 and `objectness`
    (y, x) float16, both without padding, `label` (class,) bool, perhaps narrower where its block is older than the newest
    class.
    recipe: the fields of `models.train_vit.Recipe`.
    out, state, device, precision, threads, report: of `models.train_vit.train_vit`.
    Returns the digest of the checkpoint. Raises ValueError where there is nothing to train on.
    """
    from models.train_vit import Recipe, train_vit

    last = Last(records)
    given = [record["label"] for record in records]
    classes = max(map(len, given), default=0)
    if classes == 0:
        raise ValueError("train_vit: no image carries a class; label at least one image with a defect")
    labels = np.zeros((len(given), classes), bool)
    for row, label in zip(labels, given, strict=True):
        row[: len(label)] = label
    return train_vit(
        Field(last, "image"), labels, Recipe(**recipe), out=out, state=state,
        known=Field(last, "objectness"), device=device, precision=precision, threads=threads, report=report,
    )  # fmt: skip


class Last(Lazy[Mapping[str, np.ndarray]]):
    """Records of which the last one read is held: what asks for one array after the other reads it once."""

    def __init__(self, records: Sequence[Mapping[str, np.ndarray]]) -> None:
        """records: read when asked for."""
        self._records = records
        self._held: tuple[int, Mapping[str, np.ndarray]] | None = None

    def __len__(self) -> int:
        """Number of records."""
        return len(self._records)

    def row(self, place: int) -> Mapping[str, np.ndarray]:
        """One record."""
        if self._held is None or self._held[0] != place:
            self._held = place, self._records[place]
        return self._held[1]


class Field(Lazy[np.ndarray]):
    """One array of each record, read when asked for."""

    def __init__(self, records: Sequence[Mapping[str, np.ndarray]], name: str) -> None:
        """name: of the array."""
        self._records, self._name = records, name

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def row(self, place: int) -> np.ndarray:
        """Of one image."""
        return self._records[place][self._name]
