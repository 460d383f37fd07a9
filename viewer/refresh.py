"""Bring the index up to date: the catalog's rows, the state of every block, figures, reviews; then the counts."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from storage.catalog import ImageRow, load
from storage.receipts import Receipt
from storage.reviews import Reviews, label_digest
from storage.store import Store, StoreError
from tasks.doubt import NEEDED, Contradiction, Doubt, contradiction_of, doubt_of
from tasks.reading import cut
from tasks.registry import stages, writer
from viewer import earlier
from viewer.index import Index, set_meta
from viewer.rows import take_catalog


class BlockState(NamedTuple):
    """How a block stands with a stage, as the plan of a run sees it."""

    state: str
    """fresh, stale, failed or missing."""
    why: str
    """What changed, or the error."""
    receipt: Receipt | None
    """Of its present arrays."""


Remembered = Callable[[], Mapping[int, Contradiction]]
"""By id, what the last nights found contradicted: a classifier that agrees by now may have learned the label by heart."""
States = Callable[[], Mapping[str, Mapping[str, BlockState]]]
"""Stage → block → state; the flows give it, for only they know the config."""
OVERALL = {"fresh": "labelled", "stale": "stale", "failed": "failed", "missing": "waiting"}
LABEL_STAGE = "fuse"
SOURCES = tuple(dict.fromkeys(writer(name).name for name in NEEDED))


class Refresher:
    """Looks whether the store has changed, and takes in what has; safe to call from one thread at a time."""

    def __init__(self, store: Store, index: Index, states: States, remembered: Remembered) -> None:
        """states: how every block stands; asked only where a receipt or the catalog has changed; remembered: asked after a night."""
        self.store, self.index, self.states, self.remembered = store, index, states, remembered
        self.reviews = Reviews(store)
        self.progress = (0, 0)
        """Blocks whose figures have been read, and blocks in all, while that goes on."""
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever the index has changed."""
        self._seen: dict[str, Any] = index.meta("seen") or {}
        self._earlier: Mapping[int, Contradiction] | None = None
        """What `remembered` gave last; None where it is to be asked."""

    def run(self, stop: threading.Event | None = None) -> bool:
        """Take in what is new. Returns whether anything was. stop: ends it early, between blocks."""
        look = self._look()
        catalog = look["catalog"] != self._seen.get("catalog")
        receipts = look["receipts"] != self._seen.get("receipts")
        reviews = look["reviews"] != self._seen.get("reviews")
        nights = look["nights"] != self._seen.get("nights")
        if not (catalog or receipts or reviews or nights):
            return False
        if nights:
            self._earlier = None
        rows = load(self.store)
        if catalog:
            take_catalog(self.index, rows)
        if catalog or receipts:
            self._take_states(rows, stop)
        self._take_reviews()
        self._take_earlier()
        self._count()
        if not (
            stop and stop.is_set()
        ):  # told to the next start, too: an index that is up to date costs nothing
            self._seen = look
            with self.index.writing() as db:
                set_meta(db, {"seen": look})
        return True

    def _look(self) -> dict[str, Any]:
        """Times of what a run writes: a receipt is renamed in, so its folder's time tells."""
        root = self.store.root
        folders = [root / "receipts" / stage.name for stage in stages()]
        return {
            "catalog": _time(root / "catalog.parquet"),
            "receipts": [
                _time(path)
                for path in (*folders, root / "damaged", root / "promoted.json", root / "config.yaml")
            ],
            "reviews": _time(root / "reviews"),
            "nights": _time(root / "nights"),
        }

    # -- blocks -------------------------------------------------------------------------------------

    def _take_states(self, rows: Sequence[ImageRow], stop: threading.Event | None) -> None:
        states = self.states()
        flat = [
            (stage, block, s.state, s.why, *_timing(s.receipt))
            for stage, blocks in states.items()
            for block, s in blocks.items()
        ]
        failed: dict[int, str] = {}
        for s in states["ingest"].values():
            failed |= {} if s.receipt is None else s.receipt.failed
        overall = [(OVERALL[s.state], block) for block, s in states[LABEL_STAGE].items()]
        with self.index.writing() as db:
            db.execute("DELETE FROM receipt")
            db.executemany("INSERT INTO receipt VALUES (?,?,?,?,?,?,?)", flat)
            db.executemany("UPDATE image SET state = ? WHERE block = ? AND active = 1", overall)
            db.executemany(
                "UPDATE image SET state = 'failed' WHERE id = ? AND active = 1", [(i,) for i in failed]
            )
            db.executemany("UPDATE detail SET why = ? WHERE id = ?", [(why, i) for i, why in failed.items()])
        self._count()  # pages fill at once; the figures follow block by block
        self._take_figures(states, _by_block(rows), stop)

    def _take_figures(
        self,
        states: Mapping[str, Mapping[str, BlockState]],
        blocks: Mapping[str, list[ImageRow]],
        stop: threading.Event | None,
    ) -> None:
        known = dict(self.index.connection().execute("SELECT block, basis FROM figure").fetchall())
        todo = []
        for block in states[LABEL_STAGE]:
            receipts = {name: states[name][block].receipt for name in SOURCES}
            present = {name: receipt for name, receipt in receipts.items() if receipt is not None}
            basis = " ".join(sorted(receipt.fingerprint for receipt in present.values()))
            if len(present) == len(SOURCES) and known.get(block) != basis:
                todo.append((block, present, basis))
        counted = time.monotonic()
        for n, (block, receipts_now, basis) in enumerate(todo):
            self.progress = (n, len(todo))
            if stop and stop.is_set():
                return
            self._take_block(block, blocks[block], receipts_now, basis)
            if time.monotonic() - counted > 3:  # the page fills in while it is looked at
                self._count()
                counted = time.monotonic()
        self.progress = (0, 0)

    def _take_block(
        self, block: str, rows: Sequence[ImageRow], receipts: Mapping[str, Receipt], basis: str
    ) -> None:
        try:
            arrays = {name: self.store.read(receipts[writer(name).name], name) for name in NEEDED}
        except StoreError:  # replaced while it was read, or damaged: the next look, or `verify`, tells
            return
        before = self._before(block, receipts[LABEL_STAGE])
        values, details = [], []
        failed = receipts["ingest"].failed if "ingest" in receipts else {}
        for n, row in enumerate(rows):
            if row.id in failed:
                continue  # it has no label
            part = {name: cut(name, value[n], row.height, row.width) for name, value in arrays.items()}
            doubt, contradiction = doubt_of(part), contradiction_of(part["slot_class"], part["score"])
            differs = _differs(part["p"], None if before is None else before[n])
            values.append(
                (*_columns(doubt), contradiction is not None, differs, receipts[LABEL_STAGE].made,
                 label_digest(part["p"]), row.id)
            )  # fmt: skip
            details.append((json.dumps(doubt.area), *earlier.columns(contradiction), row.id))
        with self.index.writing() as db:
            db.executemany(
                "UPDATE image SET doubt=?, entropy=?, disagreement=?, empty=?, unsure=?, contradicted=?, differs=?, made=?, "
                "content=? WHERE id=?",
                values,
            )
            db.executemany(
                "UPDATE detail SET area=?, given=?, given_score=?, said=?, said_score=?, earlier=0 WHERE id=?",
                details,
            )
            db.execute("INSERT OR REPLACE INTO figure VALUES (?, ?)", (block, basis))

    def _before(self, block: str, receipt: Receipt) -> np.ndarray | None:
        """P of a block as it was before the present receipt; None where there was none, or it is gone."""
        previous = self.store.previous(LABEL_STAGE, block)
        if previous is None or previous.group == receipt.group:
            return None
        try:
            return self.store.read(previous, "p")
        except StoreError:  # pruned
            return None

    # -- reviews and counts ---------------------------------------------------------------------------

    def _take_reviews(self) -> None:
        content = dict(self.index.connection().execute("SELECT sha256, content FROM image WHERE active = 1"))
        # read inside: a verdict that is given meanwhile is taken in after this, and not undone
        with self.index.writing() as db:
            rows = [
                (*self._review(sha256, content.get(sha256, "")), sha256) for sha256 in self.reviews.images()
            ]
            db.execute("UPDATE image SET review='none', corrected=0 WHERE review != 'none' OR corrected")
            db.execute("UPDATE detail SET mask='' WHERE mask != ''")
            for state, mask, sha256 in rows:
                _set_review(db, state, mask, sha256)

    def _review(self, sha256: str, content: str) -> tuple[str, str]:
        """How a review stands, and the mask that it names; the image's own page says what is wrong with a damaged one."""
        try:
            last = self.reviews.history(sha256).last
        except StoreError:
            return "again", ""
        return review_state(last.verdict, last.judged, last.mask or content), last.mask

    def _take_earlier(self) -> None:
        """Mark what an earlier night found contradicted, the classifier does not any more, and nobody has judged since."""
        if self._earlier is None:
            self._earlier = self.remembered()
        earlier.take(self.index, self._earlier, self.store.classes())

    def take_review(self, image: int) -> None:
        """Take in one image's review at once, without a look at the rest."""
        row = self.index.image(image)
        if row is not None:
            state, mask = self._review(row["sha256"], row["content"])
            with self.index.writing() as db:
                _set_review(db, state, mask, row["sha256"])
                if state != "none":
                    earlier.drop(db, row["sha256"])
                set_meta(
                    db, _review_counts(db) | {"contradicted": earlier.count(db)}
                )  # a page that is filtered by reviews shows it at once

    def _count(self) -> None:
        with self.index.writing() as db:
            db.execute(CHANGED)
            per_class = (
                "SELECT class, count(*), sum(image.doubt > 0.5), sum(image.review != 'none') "
                "FROM image_class JOIN image USING (id) WHERE active = 1 GROUP BY class"
            )
            set_meta(
                db,
                _review_counts(db)
                | {
                    "classes": self.store.classes(),
                    "class counts": {row[0]: list(row[1:]) for row in db.execute(per_class)},
                    "states": dict(db.execute("SELECT state, count(*) FROM image GROUP BY state").fetchall()),
                    "changed": db.execute("SELECT count(*) FROM image WHERE changed").fetchone()[0],
                    "split": db.execute(
                        "SELECT count(*) FROM image WHERE active AND disagreement >= 0.5"
                    ).fetchone()[0],
                    "contradicted": earlier.count(db),
                },
            )
        self.on_change()


def _review_counts(db: sqlite3.Connection) -> dict[str, Any]:
    """How many images stand how with their reviews."""
    found = db.execute("SELECT review, count(*) FROM image WHERE active = 1 GROUP BY review").fetchall()
    corrected = db.execute("SELECT count(*) FROM image WHERE corrected").fetchone()[0]
    return {"reviews": dict(found), "corrected": corrected}


CHANGED = """
UPDATE image SET changed = flag FROM (
    SELECT id AS this, made >= night AND (differs = 1 OR (differs = 2 AND first < night)) AS flag
    FROM image, (SELECT strftime('%Y-%m-%dT%H:%M:%S', max(made), '-12 hours') AS night, min(made) AS first
                 FROM image WHERE made != '')
) WHERE id = this AND changed IS NOT flag AND flag IS NOT NULL
"""
"""Changed since last night: made in the twelve hours up to the newest label, and another label than before, or
a first label in a store that already had some."""


def review_state(verdict: str | None, judged: str, content: str) -> str:
    """What the overview says of a review: the verdict, or `again` where another label was judged."""
    if verdict is None:
        return "none"
    return verdict if not content or judged == content else "again"


def _set_review(db: sqlite3.Connection, state: str, mask: str, sha256: str) -> None:
    db.execute("UPDATE image SET review=?, corrected=? WHERE sha256=?", (state, bool(mask), sha256))
    if mask:
        db.execute(
            "UPDATE detail SET mask=? WHERE id IN (SELECT id FROM image WHERE sha256=?)", (mask, sha256)
        )


def _differs(p: np.ndarray, before: np.ndarray | None) -> int:
    """0 the same as before, 1 another label, 2 there was none."""
    if before is None:
        return 2
    return int(not np.array_equal(before[: p.shape[0], : p.shape[1]], p))


def _columns(doubt: Doubt) -> tuple[float, ...]:
    unsure = 1 - doubt.confidence
    overall = max(doubt.empty, (doubt.entropy + doubt.disagreement + unsure) / 3)
    return overall, doubt.entropy, doubt.disagreement, doubt.empty, unsure


def _timing(receipt: Receipt | None) -> tuple[float, int, str]:
    return (0.0, 0, "") if receipt is None else (receipt.seconds, receipt.images, receipt.made)


def _by_block(rows: Sequence[ImageRow]) -> dict[str, list[ImageRow]]:
    found: dict[str, list[ImageRow]] = {}
    for row in rows:
        found.setdefault(row.block, []).append(row)
    return found


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
