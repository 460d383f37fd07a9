"""Bring the store's catalog up to what lies in the image folder now."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from flows.config import Config
from models.sam_shapes import embedding_shape, input_side
from storage.catalog import KEY, Changes, Found, ImageRow, load, reconcile, save
from storage.documents import file_digest
from storage.marks import AnnotationIndex
from storage.pixels import UnreadableImage, read_header, read_pixels
from storage.sources import Source, scan
from storage.store import Store
from viewer.words import so_many

RANGE = "value_range.json"
MOST_SIDE = 65_535
"""Longest side of an image: what the array `size` can hold."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits a camera gives; images of more than 8 bits are scaled by the least of these that holds them all."""


@dataclass(frozen=True)
class Catalogue:
    """The catalog after a look at the folder."""

    rows: list[ImageRow]
    changes: Changes
    problems: tuple[str, ...]
    value_range: tuple[int, int] | None
    classes: list[str]


def refresh(
    store: Store, config: Config, report: Callable[[int, int], None], *, write: bool = True
) -> Catalogue:
    """Look at every file, hash and decode those that are new, and write the catalog.

    report: called with images looked at and their total. write: False only looks.
    Raises CatalogError where too many are gone, and what `scan` raises where the folder cannot be read.
    """
    data = config.data
    seen = scan(data.folder, data.labels, data.normal)
    marks = AnnotationIndex(data.folder, data.annotations, data.points)
    problems = (*seen.problems, *marks.stray({source.path for source in seen.sources}))
    before = load(store)
    known = {row.path: row for row in before if row.status != "retired"}
    looker = _Looker(config, marks, known)
    found: list[Found] = []
    with ThreadPoolExecutor(max_workers=max(2, config.workers)) as pool:
        for n, item in enumerate(pool.map(looker.look, seen.sources), start=1):
            found.append(item)
            report(n, len(seen.sources))
    value_range = _value_range(store, config, max((item.peak for item in found), default=0), write=write)
    found = [_within(item, config, value_range) for item in found]
    size = block_size(config, found, max((len(item.labels) for item in found), default=1))
    rows, changes = reconcile(before, found, size, data.max_gone, seen.unlisted)
    classes = store.merged_classes(seen.classes)
    problems += _new_classes(store.classes(), found) + _labelled_twice(found)
    if write:
        store.add_classes(seen.classes)
        if (
            not before or rows != before or store.documents.faults(KEY)
        ):  # writing it takes a second, for pandas alone
            save(store, rows)
    return Catalogue(rows, changes, problems, value_range, classes)


def _labelled_twice(found: Sequence[Found]) -> tuple[str, ...]:
    """The same picture under different labels: one of them is wrong, or both are true and one file should name both."""
    equal: dict[str, list[Found]] = {}
    for item in found:
        if item.sha256:
            equal.setdefault(item.sha256, []).append(item)
    return tuple(
        "the same picture has different labels: "
        + ", ".join(f"{item.path} ({' '.join(item.labels) or 'no defect'})" for item in items[:4])
        + (f" and {len(items) - 4} more" if len(items) > 4 else "")
        for items in equal.values()
        if len({frozenset(item.labels) for item in items}) > 1
    )


def _new_classes(known: Sequence[str], found: Sequence[Found]) -> tuple[str, ...]:
    """A class that no run has seen before may be a misspelt one, and once given its index stays."""
    counts = Counter(name for item in found for name in item.labels if known and name not in known)
    return tuple(
        f"class {name!r} is new ({so_many(count, 'images')}); if it is a misspelt one of "
        f"{', '.join(known)}, correct the label before you run"
        for name, count in counts.items()
    )


def _within(item: Found, config: Config, value_range: tuple[int, int] | None) -> Found:
    """An image brighter than the range that was fixed without it would be clipped in silence: it is refused."""
    if config.data.value_range is not None or value_range is None or item.peak <= value_range[1]:
        return item
    why = (
        f"its values reach {item.peak}, the range of the set ends at {value_range[1]}, fixed at the first run; "
        f"set data.value_range: [0, {_depth(item.peak)}] (every image of more than 8 bits is then done anew)"
    )
    return replace(item, unreadable=why, width=0, height=0)


def _depth(peak: int) -> int:
    """The least range of a camera that holds a value."""
    return next(int(2**bits - 1) for bits in DEPTHS if peak < 2**bits)


class _Looker:
    """Looks at one file; a file whose size and time are as the catalog has them is not read again."""

    def __init__(self, config: Config, marks: AnnotationIndex, known: dict[str, ImageRow]) -> None:
        self.folder, self.marks, self.known = config.data.folder, marks, known
        self.most = int(config.data.max_megapixels * 1e6)
        self.side = input_side(config.sam.model)

    def look(self, source: Source) -> Found:
        """What the catalog needs to know of one file; an unreadable one is found with its reason."""
        path = Path(self.folder, source.path)
        try:
            stat = path.stat()
        except OSError as error:
            return Found(source.path, source.labels, "", 0, 0, unreadable=_unreachable(error))
        annotation = self.marks.digest(source.path)
        found = Found(source.path, source.labels, "", stat.st_size, stat.st_mtime_ns, annotation)
        found = replace(found, touched=stat.st_ctime_ns)
        row = self.known.get(source.path)
        if (
            row is not None
            and row.status == "active"
            and (row.bytes, row.modified, row.touched) == (found.bytes, found.modified, found.touched)
        ):
            return replace(found, sha256=row.sha256, width=row.width, height=row.height, unreadable=row.why)
        return self._read(path, found)

    def _read(self, path: Path, found: Found) -> Found:
        try:
            sha256 = file_digest(path)
        except OSError as error:
            return replace(found, unreadable=_unreachable(error))
        try:
            read_header(path, max_pixels=self.most)
            pixels = read_pixels(path, max_pixels=self.most)
        except UnreadableImage as error:
            return replace(found, sha256=sha256, unreadable=error.reason)
        if why := _misshapen(pixels.shape[0], pixels.shape[1], self.side):
            return replace(found, sha256=sha256, unreadable=why)
        peak = int(pixels.max(initial=0)) if pixels.dtype.itemsize > 1 else 0
        return replace(found, sha256=sha256, width=pixels.shape[1], height=pixels.shape[0], peak=peak)


def _misshapen(height: int, width: int, side: int) -> str:
    """Why an image of that many pixels cannot be shown to SAM, whose input has `side`; empty where it can."""
    if max(height, width) > MOST_SIDE:
        return f"{width} × {height} pixels: a side is longer than {MOST_SIDE}; cut it into parts"
    if round(min(height, width) * side / max(height, width)) < 1:
        return f"{width} × {height} pixels: too narrow for SAM's input of {side} pixels; cut it into parts"
    return ""


def _unreachable(error: OSError) -> str:
    return (
        f"cannot be read ({error.strerror}); give this user the right to read it, or mend its disk or share"
    )


def _value_range(store: Store, config: Config, peak: int, *, write: bool) -> tuple[int, int] | None:
    """The set's one range for more than 8 bits: from the config, else fixed at the first run that meets such images."""
    if config.data.value_range is not None:
        if write and store.read_json(RANGE) != list(config.data.value_range):
            store.write_json(RANGE, list(config.data.value_range))
        return config.data.value_range
    fixed = store.read_json(RANGE)
    if fixed is None and peak:
        fixed = [0, _depth(peak)]
        if write:
            store.write_json(RANGE, fixed)
    return None if fixed is None else (int(fixed[0]), int(fixed[1]))


def block_size(config: Config, found: Sequence[Found] | Iterable[Found], slots: int) -> int:
    """Most images a block: the config's, halved until the block's largest array fits `memory_gb`."""
    pixels = max((item.width * item.height for item in found), default=1)
    views, side = config.augment.views, input_side(config.sam.model)
    embedding = 2 * math.prod(embedding_shape(config.sam.model))
    largest = max(
        views * side * side * 3, views * embedding, max(1, slots) * views * pixels, max(1, slots) * 4 * pixels
    )
    size = config.block
    while size > 1 and size * largest > config.memory_gb * 1e9:
        size //= 2
    return size
