"""The page of an image that has no label yet: the image, and what labels it."""

import io
import re

import numpy as np
import pytest
from asking import Client
from labelled_store import Silent
from PIL import Image

from flows.underway import Noted, words_of
from viewer.guard import hosts_of
from viewer.index import Query
from viewer.server import Site, create_app

MADE = "There is no label yet; <code>bluemask run</code> makes it."


@pytest.fixture
def asked(backend):
    """The site over a store whose fusion, or more, is not done; its pulse tells of runs as that of `browse` does."""
    store = backend.store

    def pulse():
        return {"count": 1, "doing": "", "run": words_of(store), "stages": []}

    return Client(
        create_app(
            Site("s", backend.index, lambda: backend, pulse), hosts=hosts_of("127.0.0.1", 8650), token=None
        )
    )


def undo(backend, *stages):
    """Take the receipts of stages away, as if a run had not come to them yet; an image of the store."""
    for name in stages:
        for receipt in (backend.store.root / "receipts" / name).glob("*.json"):
            receipt.unlink()
    backend.refresher.run()
    return next(
        row for row in backend.index.page(Query(sort="name"), size=50).rows if "script" in row["path"]
    )


def shown(text):
    return re.findall(r'<img class="alone" src="([^"]+)" alt="([^"]*)">', text)


def test_it_shows_the_image_in_full_and_names_the_command(asked, backend):
    row = undo(backend, "fuse")
    text = asked.get(f"/image/{row['id']}").text
    assert MADE in text
    assert "`" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    [(address, alt)] = shown(text)
    assert alt.startswith("the image itself of &#34;&gt;&lt;script&gt;")
    with Image.open(io.BytesIO(asked.get(address).content)) as picture:
        np.testing.assert_array_equal(
            np.asarray(picture.convert("RGB")), backend.open(row["id"]).item.array("image")
        )


def test_while_a_run_is_under_way_it_says_that_instead(asked, backend):
    row = undo(backend, "fuse")
    with backend.store.writing():
        Noted(Silent(), backend.store).start("<fuse>", 8, "images")
        text = asked.get(f"/image/{row['id']}").text
    [words] = re.findall(r'There is no label yet. <span class="doing">(.*?)</span>', text)
    assert words.startswith("a run is under way: process ")
    assert "; &lt;fuse&gt;: 0 of 8 images (noted " in words
    assert "bluemask run" not in text
    assert len(shown(text)) == 1
    assert MADE in asked.get(f"/image/{row['id']}").text, "once it is over"


def test_an_image_that_has_not_been_read_is_no_broken_picture(asked, backend):
    row = undo(backend, "fuse", "ingest")
    text = asked.get(f"/image/{row['id']}").text
    assert MADE in text
    assert not shown(text)


def test_a_labelled_image_says_nothing_of_it(asked, backend):
    text = asked.get(f"/image/{undo(backend)['id']}").text
    assert "There is no label yet" not in text
    assert not shown(text)
