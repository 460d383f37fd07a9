"""The report: one HTML file that needs nothing else, small enough to mail."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from viewer import pages, style
from viewer.index import NO_DEFECT, Index, Query

WORST, BEST, CONTRADICTED = 24, 12, 24
"""Images that are shown."""
BINS = 20
MEASURES = (
    ("entropy", "Entropy of the views", False),
    ("disagreement", "P1 and P2 disagree", False),
    ("unsure", "Confidence of P", True),
)
"""Columns of the index, their titles, and whether one less the value is shown."""


def render(title: str, made: str, index: Index, thumbnail: Callable[[int], bytes], stages: list[str]) -> str:
    """The report of a store as HTML.

    title: the store's name; made: when, in words; index: up to date; thumbnail: JPEG of an image by its id;
    stages: names in order.
    """
    blocks = index.blocks()
    classes = index.meta("classes") or []
    worst = index.page(Query(state="labelled"), size=WORST).rows
    best = [row for row in _best(index) if row["id"] not in {item["id"] for item in worst}]
    return pages.render(
        "report.html",
        title=title,
        made=made,
        style=style.stylesheet(),
        classes=classes,
        rows=class_rows(index),
        histograms=[
            {"title": words, "bars": histogram(index, column, flipped), "column": column}
            for column, words, flipped in MEASURES
        ],
        contradicted=[
            pages.told(_shown(row, classes, thumbnail), classes) for row in index.contradicted(CONTRADICTED)
        ],
        worst=[_shown(row, classes, thumbnail) for row in worst],
        best=[_shown(row, classes, thumbnail) for row in best],
        nights=pages.nights(index),
        times=pages.times(blocks, stages),
        heat=pages.heat_map(blocks, stages),
        counts=index.meta("states") or {},
        reviews=index.meta("reviews") or {},
        quarantined=index.page(Query(state="quarantined", sort="name"), size=50).rows,
        failures=[item for item in blocks if item["state"] == "failed"][:50],
    )


def _best(index: Index) -> list[dict[str, Any]]:
    """The least doubtful images that show a defect."""
    sql = (
        "SELECT image.id FROM image JOIN detail USING (id) WHERE state = 'labelled' AND doubt >= 0 "
        "AND detail.area != '{}' ORDER BY doubt, image.id LIMIT ?"
    )
    found = [index.image(row[0]) for row in index.connection().execute(sql, (BEST,)).fetchall()]
    return [row for row in found if row is not None]


def _shown(row: dict[str, Any], classes: list[str], thumbnail: Callable[[int], bytes]) -> dict[str, Any]:
    picture = base64.b64encode(thumbnail(row["id"])).decode("ascii")
    chips = [(name, classes.index(name) + 1 if name in classes else 0) for name in row["labels"]]
    return {**row, "picture": f"data:image/jpeg;base64,{picture}", "chips": chips}


def class_rows(index: Index) -> list[dict[str, Any]]:
    """A row a class: images, share of their pixels, means of the figures, images on which P lacks it."""
    sql = (
        "SELECT c.class AS name, count(*) AS images, avg(entropy) AS entropy, avg(disagreement) AS disagreement, "
        "avg(1 - unsure) AS confidence, sum(empty > 0) AS empty, sum(review != 'none') AS reviewed, "
        "sum(corrected) AS corrected FROM image_class c JOIN image USING (id) WHERE active AND doubt >= 0 "
        "GROUP BY c.class"
    )
    rows = {row["name"]: dict(row) for row in index.connection().execute(sql)}
    area = (
        "SELECT j.key AS k, sum(j.value) AS pixels, sum(width * height) AS whole FROM image JOIN detail USING (id), "
        "json_each(detail.area) AS j WHERE active GROUP BY j.key"
    )
    shares = {int(r["k"]): r["pixels"] / max(1, r["whole"]) for r in index.connection().execute(area)}
    classes = index.meta("classes") or []
    order = [(k, name) for k, name in enumerate(classes, start=1)] + [(0, NO_DEFECT)]
    return [{**rows[name], "index": k, "share": shares.get(k, 0.0)} for k, name in order if name in rows]


def histogram(index: Index, column: str, flipped: bool) -> list[dict[str, float]]:
    """Shares of the labelled images in BINS equal steps of [0, 1]: where a bar begins, and how high it is."""
    value = f"1 - {column}" if flipped else column
    sql = (
        f"SELECT min({BINS - 1}, CAST(({value}) * {BINS} AS INT)) AS bin, count(*) FROM image "
        "WHERE active AND doubt >= 0 GROUP BY bin"
    )
    counts = dict(index.connection().execute(sql).fetchall())
    most = max(counts.values(), default=1)
    return [
        {"at": n / BINS, "count": counts.get(n, 0), "height": counts.get(n, 0) / most} for n in range(BINS)
    ]
