"""What a person marked, beside what the pipeline asked: where it lies, and that nobody takes one for the other."""

import json
import re

import cv2
import numpy as np
import pytest
from marking import mark

from viewer.index import Query
from viewer.panels import marks_of

BLOB, SCRATCH = 1, 3


@pytest.fixture
def both(backend):
    """The image of two classes, a blob and a scratch."""
    rows = backend.index.page(Query(label="blob"), size=50).rows
    return next(row for row in rows if len(row["labels"]) == 2)


def redrawn(marks, shape):
    """The outlines as a label map again, filled."""
    label = np.full(shape, 255, np.uint8)
    for item in marks:
        for piece in item["pieces"]:
            cv2.fillPoly(label, [np.array(piece, np.int32)], item["class"])
    return label


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


def test_outlines_are_those_of_the_slot_s_class_and_of_the_background(backend, both, labelled):
    label = np.full((both["height"], both["width"]), 255, np.uint8)
    label[10, 12], label[30:40, 20:50], label[60, 1:9], label[5:9, 60] = BLOB, BLOB, 0, SCRATCH
    mark(labelled.store, both, label)
    item = backend.open(both["id"]).item
    for slot, k in enumerate((BLOB, SCRATCH)):
        assert item.array("slot_class")[slot] == k
        expected = np.where(np.isin(label, (0, k)), label, 255)
        np.testing.assert_array_equal(redrawn(marks_of(item, slot), label.shape), expected)
    assert [12, 10] in [piece[0] for piece in marks_of(item, 0)[0]["pieces"] if len(piece) == 1]


def test_a_pixel_says_whether_it_was_marked(client, both, labelled):
    label = np.full((both["height"], both["width"]), 255, np.uint8)
    label[10, 12], label[20, 12] = BLOB, 0
    mark(labelled.store, both, label)
    found = [client.get(f"/api/value/{both['id']}?x=12&y={y}").json()["mark"] for y in (10, 20, 30)]
    assert found == [BLOB, 0, 255]


def test_the_legend_tells_a_hand_from_a_prompt_only_where_there_is_one(client, backend, both, labelled):
    before = client.get(f"/image/{both['id']}").text
    assert "prompt on the defect" in before
    assert "marked by hand" not in before
    assert not any(data_of(before)["marks"].values())
    label = np.full((both["height"], both["width"]), 255, np.uint8)
    label[10, 12] = BLOB
    mark(labelled.store, both, label)
    after = client.get(f"/image/{both['id']}").text
    assert re.findall(r"marked by hand: ([a-z ]+)", after) == ["blob"]
    label[20, 12] = 0
    mark(labelled.store, both, label)
    both_kinds = client.get(f"/image/{both['id']}").text
    assert re.findall(r"marked by hand: ([a-z ]+)", both_kinds) == ["blob", "no defect"]
    assert data_of(both_kinds)["prompts"] == data_of(before)["prompts"], "what SAM was asked is what it was"
