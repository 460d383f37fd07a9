"""Contradicted labels in the index: those of now, and those of earlier nights that nobody has judged since."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.doubt import Contradiction
from viewer.index import Index

OF_CONTENT = "SELECT detail.id FROM detail JOIN image USING (id) WHERE earlier AND sha256 = ?"
EVERY = "SELECT id FROM detail WHERE earlier"


def columns(found: Contradiction | None) -> tuple[float | None, ...]:
    """given, given_score, said, said_score."""
    return (None,) * 4 if found is None else tuple(vars(found).values())


def count(db: sqlite3.Connection) -> int:
    """How many labels are contradicted, by the classifier of now or of an earlier night."""
    return int(db.execute("SELECT count(*) FROM image WHERE active AND contradicted").fetchone()[0])


def take(index: Index, known: Mapping[int, Contradiction], classes: Sequence[str]) -> None:
    """Mark what an earlier night found, the classifier of now does not, and nobody has judged.

    known: by id, of earlier nights; classes: names from index 1.
    """
    with index.writing() as db:
        drop(db)
        rows = ((index.image(image), found) for image, found in known.items())
        stays = [(*columns(found), row["id"]) for row, found in rows if row and _counts(row, found, classes)]
        db.executemany(
            "UPDATE detail SET given=?, given_score=?, said=?, said_score=?, earlier=1 WHERE id=?", stays
        )
        db.execute(f"UPDATE image SET contradicted=1 WHERE id IN ({EVERY})")


def _counts(row: Mapping[str, Any], found: Contradiction, classes: Sequence[str]) -> bool:
    """Whether a contradiction of an earlier night counts of an image as it is now: its label may be another one."""
    given = classes[found.given - 1] if 0 < found.given <= len(classes) else None
    named = given in row["labels"] if given else not row["labels"]
    return bool(row["active"]) and row["review"] == "none" and row["said"] is None and named


def drop(db: sqlite3.Connection, sha256: str | None = None) -> None:
    """Forget those of earlier nights. sha256: of the images, None: of all."""
    ids = db.execute(OF_CONTENT, (sha256,)).fetchall() if sha256 else db.execute(EVERY).fetchall()
    db.executemany("UPDATE image SET contradicted=0 WHERE id=?", ids)
    db.executemany(
        "UPDATE detail SET given=NULL, given_score=NULL, said=NULL, said_score=NULL, earlier=0 WHERE id=?",
        ids,
    )
