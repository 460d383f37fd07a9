"""The catalog's rows in the index: light to import, so that a new store's images are seen at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from storage.catalog import ImageRow
from viewer.index import NO_DEFECT, Index


def take_catalog(index: Index, rows: Sequence[ImageRow]) -> None:
    """Take the catalog's rows into the index; what else it knows of an image stays."""
    places: Counter[str] = Counter()
    images, details, classes = [], [], []
    for row in rows:
        place, used = places[row.block], row.status == "active"
        places[row.block] += 1
        images.append(
            (row.id, row.path, row.sha256, row.width, row.height, row.block, place, used,
             "waiting" if used else row.status)
        )  # fmt: skip
        details.append((row.id, json.dumps(row.labels, ensure_ascii=False), row.why))
        classes += [(name, row.id) for name in row.labels or (NO_DEFECT,)]
    with index.writing() as db:
        db.executemany(
            "INSERT INTO image(id, path, sha256, width, height, block, place, active, state) VALUES (?,?,?,?,?,?,?,?,?) "
            "ON CONFLICT(id) DO UPDATE SET path=excluded.path, width=excluded.width, height=excluded.height, "
            "block=excluded.block, active=excluded.active, "
            "state=CASE WHEN excluded.active AND image.active THEN image.state ELSE excluded.state END",
            images,
        )
        db.executemany(
            "INSERT INTO detail(id, labels, why) VALUES (?,?,?) "
            "ON CONFLICT(id) DO UPDATE SET labels=excluded.labels, why=excluded.why",
            details,
        )
        db.execute("DELETE FROM image_class")
        db.executemany("INSERT OR IGNORE INTO image_class VALUES (?, ?)", classes)
        db.execute("INSERT INTO name(name) VALUES ('delete-all')")
        db.executemany("INSERT INTO name(rowid, path) VALUES (?, ?)", [(row[0], row[1]) for row in images])
