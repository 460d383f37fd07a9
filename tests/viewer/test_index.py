import json
import sqlite3

import numpy as np
import pytest

from viewer.index import NO_DEFECT, SORTS, Index, Query

COUNT = 503
CLASSES = ("rust", "o\"r'x", "<i>")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    made = Index(tmp_path_factory.mktemp("index") / "index.sqlite")
    rng = np.random.default_rng(0)
    with made.writing() as db:
        for n in range(COUNT):
            labels = [CLASSES[k] for k in range(3) if rng.random() < 0.3]
            figures = rng.choice([-1, 0, 0.25, 0.5, 0.75], 5)  # many ties
            state = rng.choice(["labelled", "stale", "waiting"]) if n % 50 else "quarantined"
            db.execute(
                "INSERT INTO image(id, path, sha256, width, height, block, place, active, state, review, corrected, changed,"
                " contradicted, doubt, entropy, disagreement, empty, unsure)"
                " VALUES (?,?,?,8,8,'b0',0,?,?,?,?,?,?,?,?,?,?,?)",
                (n, f"part {n % 7}/Image_{n:04d}.png", f"{n:064x}", state != "quarantined", state,
                 rng.choice(["none", "accept", "reject", "again"]), n % 11 == 0, n % 5 == 0, n % 4 == 0,
                 *figures.tolist()),
            )  # fmt: skip
            db.execute("INSERT INTO detail(id, labels, why) VALUES (?,?,'')", (n, json.dumps(labels)))
            db.executemany(
                "INSERT INTO image_class VALUES (?,?)", [(name, n) for name in labels or [NO_DEFECT]]
            )
            db.execute("INSERT INTO name(rowid, path) VALUES (?,?)", (n, f"part {n % 7}/Image_{n:04d}.png"))
    return made


def walk(index, query, size=37):
    rows, after = [], None
    while True:
        page = index.page(query, size=size, after=after)
        rows += page.rows
        if not page.after:
            return rows
        after = page.rows[-1]["id"]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_show_every_image_once_in_order(index, sort):
    query = Query(sort=sort)
    rows = walk(index, query)
    assert len({row["id"] for row in rows}) == len(rows) == index.count(query)
    keys = [(row[SORTS[sort]], row["id"]) for row in rows]
    assert keys == sorted(keys, reverse=sort != "name")


@pytest.mark.parametrize("sort", ["doubt", "name"])
def test_going_back_shows_what_was_before(index, sort):
    query = Query(sort=sort)
    first, second = walk(index, query)[:20], walk(index, query)[20:40]
    back = index.page(query, size=20, before=second[0]["id"])
    assert [row["id"] for row in back.rows] == [row["id"] for row in first]
    assert (back.before, back.after) == (False, True)
    middle = first[7]["id"]
    assert index.neighbours(query, middle) == (first[6]["id"], first[8]["id"])
    assert index.neighbours(query, first[0]["id"])[0] is None


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (Query(label="rust"), lambda r: "rust" in r["labels"]),
        (Query(label=CLASSES[1], sort="entropy"), lambda r: CLASSES[1] in r["labels"]),
        (Query(label=NO_DEFECT), lambda r: not r["labels"]),
        (Query(split=True), lambda r: r["disagreement"] >= 0.5),
        (Query(changed=True, review="accept"), lambda r: r["changed"] and r["review"] == "accept"),
        (Query(contradicted=True), lambda r: r["contradicted"]),
        (Query(contradicted=True, label="rust", sort="name"), lambda r: r["contradicted"] and "rust" in r["labels"]),
        (Query(review="any"), lambda r: r["review"] != "none"),
        (Query(review="corrected"), lambda r: r["corrected"]),
        (Query(state="stale", name="IMAGE_01"), lambda r: r["state"] == "stale" and "image_01" in r["path"].lower()),
        (Query(name="3/"), lambda r: "3/" in r["path"]),
    ],
)  # fmt: skip
def test_filters_find_just_what_fits(index, query, fits):
    everything = [index.image(n) for n in range(COUNT)]
    wanted = {row["id"] for row in everything if fits(row) and (query.state or row["active"])}
    assert {row["id"] for row in walk(index, query)} == wanted
    assert index.count(query) == len(wanted)
    assert index.count(query, most=1) == min(2, len(wanted))
    assert wanted


def test_quarantined_images_show_where_they_are_asked_for(index):
    assert all(row["active"] for row in walk(index, Query()))
    assert {row["id"] % 50 for row in walk(index, Query(state="quarantined"))} == {0}


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE image; --", '"', "%", "_", "a* OR b", "\x00", "NEAR(", "x" * 300]
)
def test_a_search_is_never_more_than_text(index, text):
    assert index.page(Query(name=text), size=10).rows == [] or text == "_"
    assert index.page(Query(label=text), size=10).rows == []
    assert index.count(Query()) > 400


@pytest.mark.parametrize("bad", [{"sort": "id; DROP"}, {"state": "x"}, {"review": "none' OR 1"}])
def test_values_that_no_page_shows_are_refused(bad):
    with pytest.raises(ValueError, match="expected one of"):
        Query(**bad)


def test_a_place_that_is_no_image_shows_nothing(index):
    assert index.page(Query(), size=10, after=10**9).rows == []
    assert index.image(10**9) is None


def test_a_damaged_or_older_index_is_made_anew(tmp_path):
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"no database at all" * 100)
    assert Index(path).count(Query()) == 0
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert Index(path).count(Query()) == 0
