"""Labels that the classifier contradicts: found by a filter, counted beside it, told on their pages."""

import os
import re

import pytest

from storage.reviews import Review
from tasks.doubt import Contradiction
from viewer import refresh
from viewer.index import Query
from viewer.pages import query_of

BLOB, SCRATCH = 1, 3


@pytest.fixture(autouse=True)
def contradicts(monkeypatch):
    """The classifier sees a scratch wherever the label names a blob; what it says of an image is asked once, per run."""

    def found(slot_class, score):
        return Contradiction(BLOB, 0.031, SCRATCH, 0.974) if BLOB in slot_class else None

    monkeypatch.setattr(refresh, "contradiction_of", found)


def shown(text):
    return {int(n) for n in re.findall(r'<li class="card [^>]*data-id="(\d+)"', text)}


def counted(text):
    return int(re.search(r"<span>Label contradicted</span><b>(\d+)</b>", text).group(1))


def of_class(backend, name):
    return {row["id"] for row in backend.index.page(Query(label=name), size=50).rows}


def test_the_filter_shows_them_alone_and_its_count_is_their_number(client, backend):
    blobs = of_class(backend, "blob")
    page = client.get("/?contradicted=1").text
    assert shown(page) == blobs
    assert counted(page) == counted(client.get("/").text) == len(blobs) > 1
    both = shown(client.get("/?contradicted=1&label=scratch").text)
    assert both == blobs & of_class(backend, "scratch")
    assert {row["id"] for row in backend.index.contradicted(50)} == blobs, "the report lists the same"


def test_what_the_classifier_says_stands_on_card_and_page(client, backend):
    blob, other = min(of_class(backend, "blob")), min(of_class(backend, "<b>dent</b>"))
    page = client.get("/").text
    assert page.count("classifier: scratch") == counted(page)
    assert "blob 0.03, but scratch 0.97" in client.get(f"/image/{blob}").text
    assert "contradicts the label" not in client.get(f"/image/{other}").text


def test_a_label_that_is_contradicted_no_more_leaves_the_filter(client, backend, monkeypatch):
    monkeypatch.setattr(refresh, "contradiction_of", lambda slot_class, score: None)
    again(backend)
    page = client.get("/?contradicted=1").text
    assert (shown(page), counted(page)) == (set(), 0)


@pytest.fixture
def taken_back(backend, monkeypatch):
    """The classifier has learned the labels by heart; a night remembers what it said of one blob, and the id of that."""
    image = min(of_class(backend, "blob"))
    monkeypatch.setattr(refresh, "contradiction_of", lambda slot_class, score: None)
    backend.refresher.remembered = lambda: {
        image: Contradiction(BLOB, 0.02, SCRATCH, 0.97),
        min(of_class(backend, "scratch") - of_class(backend, "blob")): Contradiction(
            BLOB, 0.02, SCRATCH, 0.97
        ),
    }
    again(backend)
    return image


def again(backend):
    """Another look, as after a night that has made every block anew."""
    with backend.index.writing() as db:
        db.execute("DELETE FROM figure")
    backend.refresher._seen = {}
    assert backend.refresher.run()


def test_what_the_classifier_has_taken_back_stays_in_the_filter_until_somebody_judges(
    client, backend, taken_back
):
    page = client.get("/?contradicted=1").text
    assert (shown(page), counted(page)) == ({taken_back}, 1)
    assert "Before it learned from this label" in client.get(f"/image/{taken_back}").text
    assert [row["earlier"] for row in backend.index.contradicted(50)] == [1], (
        "the report lists it; no other label is meant"
    )
    sha256 = backend.index.image(taken_back)["sha256"]
    backend.refresher.reviews.add(sha256, Review(verdict="accept", judged="0" * 64))
    backend.refresher.take_review(taken_back)
    page = client.get("/?contradicted=1").text
    assert (shown(page), counted(page)) == (set(), 0), "at once"
    backend.refresher.run()
    assert (shown(client.get("/?contradicted=1").text), counted(client.get("/").text)) == (set(), 0)
    backend.refresher.reviews.undo(sha256)
    backend.refresher.run()
    assert counted(client.get("/").text) == 1, "taken back is not judged"


def test_a_night_that_remembers_nothing_more_is_seen(client, backend, taken_back):
    backend.refresher.remembered = dict
    (backend.store.root / "nights").mkdir(exist_ok=True)
    os.utime(backend.store.root / "nights", ns=(1, 1))
    assert backend.refresher.run()
    assert counted(client.get("/").text) == 0


def test_a_contradiction_of_now_takes_the_place_of_the_earlier_one(client, backend, taken_back, monkeypatch):
    monkeypatch.setattr(refresh, "contradiction_of", lambda *_: Contradiction(BLOB, 0.01, SCRATCH, 0.99))
    again(backend)
    text = client.get(f"/image/{taken_back}").text
    assert "The classifier contradicts the label: blob 0.01" in text


def test_the_filter_is_kept_in_every_address():
    query = query_of({"contradicted": "1", "sort": "name"})
    assert query_of(query.parameters()) == query
    assert query.contradicted
