"""What a store's nights know of each labelled image, and which labels they found contradicted."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.outcome import LISTED
from flows.plan import Plan
from storage.documents import DamagedError
from storage.reviews import Reviews
from storage.store import Store, StoreError
from tasks.doubt import Contradiction

FIGURES = "nights/figures.parquet"
"""One row per labelled image: what its present label says, so that a night reads only labels that are new."""


def load(store: Store, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows that the last night left; none where there was none, or they are damaged. names: of the columns, None: all."""
    try:
        data = store.documents.read(FIGURES)
    except DamagedError:
        return []  # they are made anew from the labels
    rows = [] if data is None else pq.ParquetFile(io.BytesIO(data)).read(columns=names).to_pylist()
    # older tables did not name the image, nor what contradicts its label
    return [{"contradiction": None} | row for row in rows if "id" in row]


def save(store: Store, rows: list[dict[str, Any]]) -> None:
    """Replace the rows wholly."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    store.documents.write(FIGURES, sink.getvalue())


def still(known: Mapping[str, Any] | None, slot_class: np.ndarray) -> dict[str, Any] | None:
    """A contradiction of an earlier run that the classifier has taken back, while the label is the same.

    It learns from every label, wrong ones too, and after some trainings knows them by heart: that it agrees then says nothing.
    known: what the last night said of the image; slot_class: (slot,) uint8, the label's classes, 0 unused.
    """
    before = None if known is None else known["contradiction"]
    if before is None:
        return None
    named = slot_class[slot_class > 0].tolist() or [0]
    return before | {"earlier": True} if before["given"] in named else None


def settle(rows: Iterable[dict[str, Any]], reviews: Reviews) -> None:
    """Forget contradictions of earlier runs where somebody has judged the image since."""
    for row in rows:
        if row["contradiction"] and row["contradiction"].get("earlier"):
            with suppress(StoreError):  # of a damaged review nothing is known
                if reviews.history(row["sha256"]).last.verdict is not None:
                    row["contradiction"] = None


def in_words(rows: list[dict[str, Any]], plan: Plan) -> list[str]:
    """What the label says and what the classifier says, of the flattest contradictions; never more than LISTED."""
    names, paths = ["no defect", *plan.classes], {row.id: row.path for row in plan.rows}

    def flatness(row: dict[str, Any]) -> tuple[float, str]:
        return row["contradiction"]["given_score"] - row["contradiction"]["said_score"], paths[row["id"]]

    def told(found: Mapping[str, Any]) -> str:
        label, said = names[found["given"]], f"{names[found['said']]} ({found['said_score']:.2f})"
        if found.get("earlier"):
            return f"the label says {label}, the classifier said {said} before it learned from that label; nobody has judged it since"
        return f"the label says {label} (score {found['given_score']:.2f}), the classifier {said}"

    return [
        f"{paths[row['id']]}: {told(row['contradiction'])}" for row in sorted(rows, key=flatness)[:LISTED]
    ]


def contradicted_images(store: Store) -> set[int]:
    """Ids of the images whose label the last night found contradicted, then or earlier."""
    return {row["id"] for row in load(store, ("id", "contradiction")) if row["contradiction"]}


def remembered(store: Store) -> dict[int, Contradiction]:
    """What was said of these, by id: a classifier that agrees by now may have learned the label by heart."""
    found = {row["id"]: row["contradiction"] for row in load(store, ("id", "contradiction"))}
    return {
        image: Contradiction(**{name: value for name, value in told.items() if name != "earlier"})
        for image, told in found.items()
        if told
    }
