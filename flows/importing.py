"""Corrected masks back into a store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from rich.console import Console
from rich.progress import track

from flows.outputs import finished
from flows.summary import stored_config
from storage.reviews import Review, Reviews, label_digest
from storage.store import Store
from tasks.export import ExportError
from tasks.formats import reader_of
from tasks.reading import Labelled


def import_masks(root: Path, file: Path, console: Console, *, kind: str, accept: bool) -> None:
    """Take corrected masks back: where one differs from the label that counts, it takes its place.

    kind: of READERS; accept: whether a mask that differs in nothing counts as an accepted label. Nothing is kept
    unless every mask fits. Raises ExportError that names the first that does not.
    """
    read = reader_of(kind)
    store = Store.existing(root)
    items = {_stem(item.row.path): item for item in finished(store, stored_config(store))}
    classes, reviews = tuple(store.classes()), Reviews(store)
    found = [(_find(items, name, file), mask) for name, mask in read(file, classes)]
    checked = [(item, _fitting(item, mask, file)) for item, mask in found]
    counts: Counter[str] = Counter()
    for item, mask in track(checked, "importing", console=console, transient=True):
        counts[_take(reviews, item, mask, f"import {kind}", classes, accept)] += 1
    words = ", ".join(f"{n} {what}" for what, n in counts.items()) or "it holds no mask"
    console.print(f"{file}: {words}", highlight=False, markup=False)


def _take(
    reviews: Reviews, item: Labelled, mask: np.ndarray, source: str, classes: tuple[str, ...], accept: bool
) -> str:
    sha256 = item.row.sha256
    before = reviews.history(sha256).last
    if np.array_equal(mask, item.label(reviews)):
        if accept:
            judged = label_digest(mask)
            reviews.add(
                sha256, before.model_copy(update={"verdict": "accept", "judged": judged, "source": source})
            )
        return "unchanged, accepted" if accept else "unchanged"
    digest = reviews.keep_mask(sha256, mask)
    reviews.add(
        sha256,
        Review(
            verdict="accept", judged=digest, note=before.note, mask=digest, classes=classes, source=source
        ),
    )
    return "corrected"


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _find(items: dict[str, Labelled], name: str, file: Path) -> Labelled:
    """The image of a path without ending: the same path, else the only one that ends so."""
    if name in items:
        return items[name]
    last = name.rsplit("/", 1)[-1]  # an uploaded file has lost its folders
    matching = (
        [key for key in items if key.endswith("/" + name)]
        or [key for key in items if key.replace("/", "__") == name]
        or [key for key in items if key.rsplit("/", 1)[-1] == last]
    )
    if len(matching) != 1:
        raise ExportError(f"{file}: {name!r} is the name of {len(matching)} finished images, expected one")
    return items[matching[0]]


def _fitting(item: Labelled, mask: np.ndarray | None, file: Path) -> np.ndarray:
    size = (item.row.height, item.row.width)
    if mask is None:
        return np.zeros(size, np.uint8)
    if mask.shape != size:
        raise ExportError(
            f"{file}: the mask of {item.row.path} is {mask.shape[1]} × {mask.shape[0]} pixels, "
            f"the image {size[1]} × {size[0]}"
        )
    return mask
