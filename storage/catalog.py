"""The catalog: one row for every image that the store has ever seen, in one Parquet file.

A block's list of images never changes. A new or changed image goes to a new block; one that was
removed or replaced is retired here and kept out of every output, so nothing is redone because a
neighbour came or went.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from storage.store import Store

Status = Literal["active", "retired", "quarantined"]
KEY = "catalog.parquet"
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("labels", pa.list_(pa.string())),
        ("annotation", pa.string()),
        ("block", pa.string()),
        ("status", pa.string()),
        ("why", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),
        ("touched", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ImageRow:
    """One content at one path, with its labels."""

    id: int
    """Given once, in the order of arrival."""
    path: str
    """Relative to the image folder, posix."""
    sha256: str
    """Of the file's bytes."""
    width: int
    """Pixels, after EXIF rotation; 0 where unreadable."""
    height: int
    """Pixels, after EXIF rotation; 0 where unreadable."""
    labels: tuple[str, ...]
    """Names of its defect classes; empty for an image without a defect."""
    annotation: str
    """Digest of what the user marked in it; empty where nothing is."""
    block: str
    """The block that it belongs to; empty where quarantined."""
    status: Status
    """Retired and quarantined images are in no output."""
    why: str
    """Why it is retired or quarantined."""
    bytes: int
    """Size of the file, with `modified` a hint that it need not be hashed again."""
    modified: int
    """Modification time in ns since the epoch."""
    touched: int = 0
    """Time of the last change of the file's entry, in ns since the epoch: no program can set it at will."""


@dataclass(frozen=True)
class Found:
    """What a look at one file of the image folder gave."""

    path: str
    labels: tuple[str, ...]
    sha256: str
    bytes: int
    modified: int
    annotation: str = ""
    width: int = 0
    height: int = 0
    unreadable: str = ""
    touched: int = 0
    peak: int = 0
    """Highest value of an image of more than 8 bits; 0 where it was not decoded or has 8."""

    @property
    def unreachable(self) -> bool:
        """Whether the file's bytes could not be had at all, so that nothing can be said of its content."""
        return not self.sha256


@dataclass(frozen=True)
class Changes:
    """What a reconciliation changed, as lists of paths."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    relabelled: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """True where anything differs from the last run."""
        return any((self.new, self.changed, self.moved, self.relabelled, self.removed, self.quarantined))


class CatalogError(RuntimeError):
    """The image folder differs from the catalog in a way that looks like a fault."""


def load(store: Store) -> list[ImageRow]:
    """All rows in order of id; an empty list in a new store."""
    data = store.documents.read(KEY)
    if data is None:
        return []
    table = pq.ParquetFile(
        io.BytesIO(data)
    ).read()  # read_table would load pandas: a second or more of every command
    lacking = dict.fromkeys(
        SCHEMA.names, [None] * table.num_rows
    )  # of a version that did not know a column yet
    columns = lacking | table.to_pydict()
    columns["labels"] = [tuple(labels) for labels in columns["labels"]]
    columns["touched"] = [touched or 0 for touched in columns["touched"]]
    names = [field.name for field in fields(ImageRow)]
    return [ImageRow(*values) for values in zip(*(columns[name] for name in names), strict=True)]


def save(store: Store, rows: Sequence[ImageRow]) -> None:
    """Replace the catalog wholly. Only the driver does, before it hands out work."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    columns["labels"] = [list(labels) for labels in columns["labels"]]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    store.documents.write(KEY, sink.getvalue())


def blocks(rows: Iterable[ImageRow]) -> dict[str, list[ImageRow]]:
    """Rows by block, each in its order, retired ones included: a block's list never changes."""
    found: dict[str, list[ImageRow]] = {}
    for row in rows:
        if row.block:
            found.setdefault(row.block, []).append(row)
    return found


def live_blocks(rows: Iterable[ImageRow]) -> dict[str, list[ImageRow]]:
    """Blocks that still have an active image."""
    return {name: part for name, part in blocks(rows).items() if any(row.status == "active" for row in part)}


def reconcile(
    rows: Sequence[ImageRow],
    found: Sequence[Found],
    block_size: int,
    max_gone: float,
    unlisted: Sequence[str] = (),
) -> tuple[list[ImageRow], Changes]:
    """Bring the catalog up to what lies in the folder now.

    rows: the catalog; found: every image file, in the order of paths.
    block_size: most images a block. max_gone: largest share of active images that may have vanished.
    unlisted: folders, relative and with a slash at the end, of which nobody could say what is in them: their
        images are neither seen nor gone.
    Returns the new rows and what changed. Raises CatalogError where more than `max_gone` vanished:
    that is rather a share that is not mounted than a decision.
    """
    book = _Book(rows)
    book.leave(unlisted)
    for item in found:
        book.place(item)
    book.retire_rest()
    active = {row.path for row in rows if row.status == "active"}
    lost = {item.path for item in found if item.unreachable}
    _refuse_mass_removal(sorted(active & (lost | {*book.changes["removed"]})), len(active), max_gone)
    book.form_blocks(block_size)
    return book.rows, Changes(**{name: tuple(paths) for name, paths in book.changes.items()})


def _refuse_mass_removal(gone: Sequence[str], active: int, max_gone: float) -> None:
    if active and len(gone) / active > max_gone:
        named = ", ".join(gone[:3]) + f" and {len(gone) - 3} more" * (len(gone) > 3)
        raise CatalogError(
            f"{len(gone)} of {active} images are gone from the image folder or cannot be reached ({named}), more than "
            f"data.max_gone = {max_gone:g}; nothing was marked as removed: if a share is not mounted, mount it; if "
            "they were meant to go, run once with BLUEMASK__DATA__MAX_GONE=1"
        )


_Rows = dict[str, list[ImageRow]]


def _by_content(rows: Iterable[ImageRow]) -> _Rows:
    """Rows by sha256, in order: equal images are several."""
    found: _Rows = {}
    for row in rows:
        found.setdefault(row.sha256, []).append(row)
    return found


def _take(rows: _Rows, sha256: str) -> ImageRow | None:
    """The first row of that content, which is then taken."""
    left = rows.get(sha256)
    return left.pop(0) if left else None


class _Book:
    """The catalog while it is being brought up to date."""

    def __init__(self, rows: Sequence[ImageRow]) -> None:
        self.rows = list(rows)
        self.changes: dict[str, list[str]] = {
            name: [] for name in ("new", "changed", "moved", "relabelled", "removed", "quarantined")
        }
        self._before = {row.path: row for row in rows if row.status != "retired"}
        self._seen: set[int] = set()
        self._fresh: list[int] = []
        self._arriving: list[Found] = []

    def leave(self, unlisted: Sequence[str]) -> None:
        """Let rows be that lie in folders which could not be listed."""
        if unlisted:
            self._seen |= {row.id for row in self._before.values() if row.path.startswith(tuple(unlisted))}

    def place(self, item: Found) -> None:
        """Match a file to its row by path and content; keep what is new for later."""
        row = self._before.get(item.path)
        if (
            row is not None
            and row.sha256 == item.sha256
            and not (row.status == "quarantined" and not item.unreadable)
        ):
            self._seen.add(row.id)
            self._update(row, item)
        else:
            self._arriving.append(item)

    def _update(self, row: ImageRow, item: Found) -> None:
        if (row.labels, row.annotation) != (item.labels, item.annotation):
            self.changes["relabelled"].append(item.path)
        self.rows[row.id] = replace(
            row,
            path=item.path,
            labels=item.labels,
            annotation=item.annotation,
            bytes=item.bytes,
            modified=item.modified,
            touched=item.touched,
        )

    def retire_rest(self) -> None:
        """Give arriving contents their old row where one lost its path; retire what is left over."""
        lost = _by_content(row for row in self._before.values() if row.id not in self._seen and row.block)
        retired = _by_content(row for row in self.rows if row.status == "retired" and row.block)
        arriving = {item.path for item in self._arriving}
        for item in self._arriving:
            self._arrive(item, lost, retired)
        for row in self._before.values():
            if row.id not in self._seen:
                replaced = row.path in arriving
                self.rows[row.id] = replace(row, status="retired", why="replaced" if replaced else "removed")
                if not replaced:
                    self.changes["removed"].append(row.path)

    def _arrive(self, item: Found, lost: _Rows, retired: _Rows) -> None:
        row = None if item.unreadable else _take(lost, item.sha256)
        if row is not None:
            self._seen.add(row.id)
            self.changes["moved"].append(item.path)
            self._update(row, item)
            return
        back = None if item.unreadable else _take(retired, item.sha256)
        if back is not None:
            self.changes["new"].append(item.path)
            self._update(
                replace(back, labels=item.labels, annotation=item.annotation, status="active", why=""), item
            )
            return
        self._append(item)

    def _append(self, item: Found) -> None:
        known = item.path in self._before
        bad = bool(item.unreadable)
        self.changes["quarantined" if bad else "changed" if known else "new"].append(item.path)
        row = ImageRow(
            id=len(self.rows),
            path=item.path,
            sha256=item.sha256,
            width=item.width,
            height=item.height,
            labels=item.labels,
            annotation=item.annotation,
            block="",
            status="quarantined" if bad else "active",
            why=item.unreadable,
            bytes=item.bytes,
            modified=item.modified,
            touched=item.touched,
        )
        self.rows.append(row)
        if not bad:
            self._fresh.append(row.id)

    def form_blocks(self, size: int) -> None:
        """Form new blocks of new images, like sizes together so that padding stays small."""
        first = 1 + max((int(row.block[1:]) for row in self.rows if row.block), default=-1)
        # equal contents side by side, so that a block encodes them once
        leader: dict[str, str] = {}
        for i in self._fresh:
            row = self.rows[i]
            leader[row.sha256] = min(row.path, leader.get(row.sha256, row.path))
        order = sorted(
            self._fresh,
            key=lambda i: (
                self.rows[i].height,
                self.rows[i].width,
                leader[self.rows[i].sha256],
                self.rows[i].path,
            ),
        )
        for n, image in enumerate(order):
            self.rows[image] = replace(self.rows[image], block=f"b{first + n // size:06d}")


def changed_share(before: Mapping[str, str], after: Mapping[str, str]) -> float:
    """Share of images whose entry differs between two records of a data set, in [0, 1]; one in another's place counts once."""
    differing = sum(before[name] != after[name] for name in before.keys() & after.keys())
    replaced = max(len(before.keys() - after.keys()), len(after.keys() - before.keys()))
    return (differing + replaced) / max(1, len(before), len(after))
