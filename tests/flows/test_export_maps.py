"""P1 and P2 exported in P's place: as they are in the store, without a confidence that is not theirs."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from flows.exporting import export_store
from flows.outputs import finished
from flows.selection import MAPS, Choice
from storage.reviews import Review, Reviews, label_digest
from storage.store import WrongInputError
from tasks.export import ExportError
from tasks.export_soft import UNTOLD


def export(labelled, out, which="p", **how):
    said = io.StringIO()
    choice = Choice(label_map=which, **how.pop("choice", {}))
    export_store(labelled.store.root, out, Console(file=said, width=300), choice=choice, **how)
    return " ".join(said.getvalue().split())


def items(labelled):
    return finished(labelled.store, labelled.config)


def label(out, item):
    with Image.open(out / item.row.path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("which", MAPS)
def test_each_map_is_that_of_the_store(labelled, tmp_path, which):
    export(labelled, tmp_path / "out", which)
    for item in items(labelled):
        np.testing.assert_array_equal(label(tmp_path / "out", item), item.array(which))
    assert any((item.array("p2") != item.array(which)).any() for item in items(labelled)) == (which != "p2")


def test_a_mask_that_was_drawn_stands_in_place_of_any(labelled, tmp_path):
    item, reviews = items(labelled)[0], Reviews(labelled.store)
    mask = np.zeros((item.row.height, item.row.width), np.uint8)
    mask[3:20, 5:30] = 1
    digest = reviews.keep_mask(item.row.sha256, mask)
    reviews.add(item.row.sha256, Review(verdict="accept", judged=digest, mask=digest))
    said = export(labelled, tmp_path / "out", "p2")
    assert "P2 of each image, 255 where it is unsure; 1 mask drawn by hand in its place" in said
    np.testing.assert_array_equal(label(tmp_path / "out", item), mask)


def test_a_verdict_counts_for_the_map_that_was_judged(labelled, tmp_path):
    item = next(item for item in items(labelled) if (item.array("p") != item.array("p2")).any())
    judged = label_digest(item.array("p"))
    Reviews(labelled.store).add(item.row.sha256, Review(verdict="reject", judged=judged))
    assert "1 rejected" in export(labelled, tmp_path / "p")
    assert "rejected" not in export(labelled, tmp_path / "p2", "p2")


@pytest.mark.parametrize("kind", ["npz", "png16"])
@pytest.mark.parametrize("which", MAPS)
def test_the_confidence_goes_with_p_alone(labelled, tmp_path, kind, which):
    out = tmp_path / "out"
    said = export(labelled, out, which, kind=kind)
    if kind == "npz":
        arrays = {item: np.load((out / item.row.path).with_suffix(".npz")) for item in items(labelled)}
        there = {"confidence" in array for array in arrays.values()}
        assert all(np.array_equal(array["label"], item.array(which)) for item, array in arrays.items())
    else:
        there = {(out / "confidence").exists()}
    assert there == {which == "p"}
    assert (UNTOLD in said) == (which != "p")


def test_what_cannot_be_had_is_refused(labelled, tmp_path):
    with pytest.raises(ExportError, match="confidence is that of P, and says nothing of P2"):
        Choice(label_map="p2", confidence=0.5)
    with pytest.raises(ExportError, match="map 'p3' is not known; choose one of p, p1, p2"):
        Choice(label_map="p3")
    export(labelled, tmp_path / "out")
    with pytest.raises(WrongInputError, match="holds an export as 'png'; export 'png of P2' into another"):
        export(labelled, tmp_path / "out", "p2")
