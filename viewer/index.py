"""The index behind the overview: one narrow SQLite row an image, so that any page is a few milliseconds.

It is derived from the store's catalog, receipts and reviews, may be deleted at any time, and is brought up to
date by `viewer.refresh`. Pages go by keyset: a page starts after an image, not at a number, so the last page of
a hundred thousand images costs what the first does.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

VERSION = 7
"""Raised whenever the tables, or what figures mean, change: an index of another version is made anew."""
SORTS = {
    "doubt": "doubt",
    "entropy": "entropy",
    "disagreement": "disagreement",
    "empty": "empty",
    "unsure": "unsure",
    "name": "path",
}
"""Ways to sort: the column; figures go from the worst down, names up."""
STATES = ("labelled", "stale", "failed", "waiting", "quarantined", "retired")
REVIEWS = ("none", "accept", "reject", "correct", "again", "corrected", "any")
NO_DEFECT = "(no defect)"
"""Stands in a class's place for images whose label names none."""
SPLIT = 0.5
"""From this disagreement on P1 and P2 are split."""
RARE = 4000
"""Up to so many hits a class or a search is looked up by itself; beyond, the sorted walk meets one soon."""

TABLES = """
CREATE TABLE image(
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, sha256 TEXT NOT NULL, width INT, height INT, block TEXT, place INT,
    active INT NOT NULL, state TEXT NOT NULL, review TEXT NOT NULL DEFAULT 'none', corrected INT NOT NULL DEFAULT 0,
    changed INT NOT NULL DEFAULT 0, contradicted INT NOT NULL DEFAULT 0, differs INT NOT NULL DEFAULT 0, made TEXT NOT NULL DEFAULT '',
    content TEXT NOT NULL DEFAULT '', doubt REAL NOT NULL DEFAULT -1, entropy REAL NOT NULL DEFAULT -1,
    disagreement REAL NOT NULL DEFAULT -1, empty REAL NOT NULL DEFAULT -1, unsure REAL NOT NULL DEFAULT -1);
CREATE TABLE detail(id INTEGER PRIMARY KEY, labels TEXT, why TEXT, area TEXT NOT NULL DEFAULT '{}',
    mask TEXT NOT NULL DEFAULT '', given INT, given_score REAL, said INT, said_score REAL,
    earlier INT NOT NULL DEFAULT 0);
CREATE TABLE image_class(class TEXT, id INT, PRIMARY KEY(class, id)) WITHOUT ROWID;
CREATE VIRTUAL TABLE name USING fts5(path, content='', tokenize='trigram');
CREATE TABLE figure(block TEXT PRIMARY KEY, basis TEXT);
CREATE TABLE receipt(stage TEXT, block TEXT, state TEXT, why TEXT, seconds REAL, images INT, made TEXT,
    PRIMARY KEY(stage, block)) WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);
CREATE INDEX by_block ON image(block, place);
CREATE INDEX by_sha ON image(sha256);
CREATE INDEX by_earlier ON detail(id) WHERE earlier;
"""


@dataclass(frozen=True)
class Query:
    """What the overview shows: a way to sort, and filters that all have to hold."""

    sort: str = "doubt"
    name: str = ""
    """Part of the path, in any case."""
    label: str = ""
    """A class that the image's label names, or NO_DEFECT."""
    state: str = ""
    """One of STATES; empty takes every image that is in use."""
    review: str = ""
    """One of REVIEWS; `again`: the label changed since it was judged."""
    split: bool = False
    changed: bool = False
    contradicted: bool = False
    """Only images whose label the classifier contradicts, or did before it learned from it; see `tasks.doubt.contradiction_of`."""

    def __post_init__(self) -> None:
        """Refuse what no page can show. Raises ValueError."""
        for value, known in ((self.sort, SORTS), (self.state, ("", *STATES)), (self.review, ("", *REVIEWS))):
            if value not in known:
                raise ValueError(f"{value!r}: expected one of {', '.join(known)}")

    def parameters(self) -> dict[str, str]:
        """As a query string has it, without what is as by default."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        default = {field.name: field.default for field in fields(self)}
        return {k: "1" if v is True else str(v) for k, v in given.items() if v != default[k]}


@dataclass(frozen=True)
class Page:
    """Some rows in order, and whether there are more before and after them."""

    rows: list[dict[str, Any]]
    before: bool
    after: bool


class Index:
    """The SQLite file; connections are per thread, readers never wait for the one writer."""

    def __init__(self, path: Path) -> None:
        """path: the file; made anew where it is missing, damaged or of another version."""
        self.path = path
        self._local = threading.local()
        self._write = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._usable():
            self._make()

    def _usable(self) -> bool:
        try:
            return bool(self.connection().execute("PRAGMA user_version").fetchone()[0] == VERSION)
        except sqlite3.DatabaseError:
            return False

    def _make(self) -> None:
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        connection = self.connection()
        connection.executescript(TABLES)
        for column in SORTS.values():  # each holds all that a filter asks, so that a walk reads nothing else
            connection.execute(
                f"CREATE INDEX by_{column} ON image({column}, id, active, state, review, corrected, changed, disagreement, "
                "contradicted)"
            )
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.commit()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, timeout=30)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # what a crash takes is made anew
            self._local.connection = connection
        found: sqlite3.Connection = self._local.connection
        return found

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One change, whole or not at all; no two at a time."""
        with self._write:
            connection = self.connection()
            with connection:
                yield connection

    # -- reading ------------------------------------------------------------------------------------

    def page(self, query: Query, *, size: int, after: int | None = None, before: int | None = None) -> Page:
        """The `size` rows after or before an image's id, in the query's order; the first rows without either."""
        where, values = self._where(query)
        back = before is not None
        rows = self._walk(query, where, values, size + 1, back=back, start=before if back else after)
        more, rows = len(rows) > size, rows[:size]
        if back:
            return Page(rows[::-1], before=more, after=True)
        return Page(rows, before=after is not None, after=more)

    def _walk(
        self, query: Query, where: list[str], values: list[Any], size: int, *, back: bool, start: int | None
    ) -> list[dict[str, Any]]:
        column = SORTS[query.sort]
        rising = (column == "path") != back
        where, values = list(where), list(values)
        if start is not None:
            where.append(
                f"({column}, image.id) {'>' if rising else '<'} (SELECT {column}, id FROM image WHERE id = ?)"
            )
            values.append(start)
        order = "ASC" if rising else "DESC"
        chosen = f"SELECT image.id FROM image WHERE {' AND '.join(where)} ORDER BY {column} {order}, image.id {order} LIMIT ?"
        found = self.connection().execute(
            f"SELECT image.*, detail.* FROM ({chosen}) AS chosen JOIN image ON image.id = chosen.id "
            f"JOIN detail ON detail.id = chosen.id ORDER BY {column} {order}, image.id {order}",
            (*values, size),
        )
        return [_row(row) for row in found]

    def neighbours(self, query: Query, image: int) -> tuple[int | None, int | None]:
        """Ids of the images before and after one in the query's order."""
        where, values = self._where(query)
        either = [self._walk(query, where, values, 1, back=back, start=image) for back in (True, False)]
        previous, following = ([row["id"] for row in rows] for rows in either)
        return (previous[0] if previous else None), (following[0] if following else None)

    def count(self, query: Query, most: int = 10_000) -> int:
        """How many images a query finds; `most` and one more stands for any number beyond.

        Where there is one filter at most, the number is exact: it was counted when the index was made.
        """
        known = self._counted(query)
        if known is not None:
            return known
        where, values = self._where(query)
        sql = f"SELECT count(*) FROM (SELECT 1 FROM image WHERE {' AND '.join(where)} LIMIT ?)"
        return int(self.connection().execute(sql, (*values, most + 1)).fetchone()[0])

    def _counted(self, query: Query) -> int | None:
        """What the index has counted already."""
        given = query.parameters()
        given.pop("sort", None)
        if len(given) > 1 or query.name or self.meta("states") is None:
            return None
        states, reviews = self.meta("states"), self.meta("reviews")
        if query.state:
            return int(states.get(query.state, 0))
        if query.label:
            return int((self.meta("class counts") or {}).get(query.label, [0])[0])
        if query.review in ("any", "corrected"):
            total = sum(n for name, n in reviews.items() if name != "none")
            return int(total if query.review == "any" else self.meta("corrected"))
        if query.review:
            return int(reviews.get(query.review, 0))
        for name in ("split", "changed", "contradicted"):
            if getattr(query, name):
                return int(self.meta(name))
        return int(sum(reviews.values()))

    def image(self, image: int) -> dict[str, Any] | None:
        """One row, or None where there is no such id."""
        row = self.connection().execute(
            "SELECT image.*, detail.* FROM image JOIN detail USING (id) WHERE image.id = ?", (image,)
        ).fetchone()  # fmt: skip
        return None if row is None else _row(row)

    def contradicted(self, most: int) -> list[dict[str, Any]]:
        """Images whose label the classifier contradicts, the flattest contradictions first.

        Of each, given and said are class indices, 0 for no defect; see `tasks.doubt.Contradiction`. earlier: whether it was so
        before the classifier learned from the label.
        """
        found = self.connection().execute(
            "SELECT image.*, detail.* FROM image JOIN detail USING (id) WHERE state = 'labelled' AND said IS NOT NULL "
            "ORDER BY given_score - said_score, id LIMIT ?", (most,)
        )  # fmt: skip
        return [_row(row) for row in found]

    def _where(self, query: Query) -> tuple[list[str], list[Any]]:
        """Conditions and their values. Nothing of a request is ever part of the SQL text."""
        where, values = [], list[Any]()
        if query.state:
            where.append("state = ?")
            values.append(query.state)
        else:
            where.append("active = 1")
        where += _review_condition(query.review)
        where += ["changed = 1"] * query.changed + [f"disagreement >= {SPLIT}"] * query.split
        where += ["contradicted = 1"] * query.contradicted
        for sql, value in (*self._label(query.label), *self._name(query.name)):
            where.append(sql)
            values.append(value)
        return where, values

    def _label(self, name: str) -> list[tuple[str, str]]:
        if not name:
            return []
        some = "SELECT count(*) FROM (SELECT 1 FROM image_class WHERE class = ? LIMIT ?)"
        if self.connection().execute(some, (name, RARE)).fetchone()[0] < RARE:
            return [("image.id IN (SELECT id FROM image_class WHERE class = ?)", name)]
        return [("EXISTS (SELECT 1 FROM image_class c WHERE c.class = ? AND c.id = image.id)", name)]

    def _name(self, text: str) -> list[tuple[str, str]]:
        text = text.strip()
        if not text:
            return []
        if "\0" in text:  # no path holds one, and it would end a pattern early
            return [("path = ?", text)]
        plain = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        walk = ("path LIKE ? ESCAPE '\\'", f"%{plain}%")
        if len(text) < 3:  # shorter than what the index of names is made of: one pass over the paths alone
            return [(f"image.id IN (SELECT id FROM image INDEXED BY by_path WHERE {walk[0]})", walk[1])]
        quoted = '"' + text.replace('"', '""') + '"'
        some = "SELECT count(*) FROM (SELECT 1 FROM name WHERE name MATCH ? LIMIT ?)"
        if self.connection().execute(some, (quoted, RARE)).fetchone()[0] < RARE:
            return [("image.id IN (SELECT rowid FROM name WHERE name MATCH ?)", quoted)]
        return [walk]

    # -- small values -------------------------------------------------------------------------------

    def meta(self, key: str) -> Any:
        """A small JSON value, or None."""
        row = self.connection().execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def blocks(self) -> list[dict[str, Any]]:
        """Every stage × block: state, why, seconds, images, and when it was made."""
        return [dict(row) for row in self.connection().execute("SELECT * FROM receipt ORDER BY block, stage")]


def set_meta(connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """Keep small JSON values."""
    rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in values.items()]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)


def _review_condition(review: str) -> list[str]:
    if not review:
        return []
    known: dict[str, Literal["review != 'none'", "corrected = 1"]] = {
        "any": "review != 'none'",
        "corrected": "corrected = 1",
    }
    return [known.get(review, f"review = '{review}'")]  # one of REVIEWS, by Query's own check


def _row(row: sqlite3.Row) -> dict[str, Any]:
    found = dict(row)
    found["labels"] = json.loads(found["labels"] or "[]")
    found["area"] = {int(k): n for k, n in json.loads(found["area"] or "{}").items()}
    return found
