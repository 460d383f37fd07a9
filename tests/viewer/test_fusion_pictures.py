"""The pictures of the fusion's training: of the new networks, of few images, and with P as the stage makes it."""

import json

import numpy as np
import pytest

from flows import training
from flows.networks import load_model
from flows.plan import section
from flows.summary import plan_of
from models.checkpoints import load_checkpoint
from models.fusion import KIND
from tasks.registry import writer
from viewer import fusion_pictures as pictures
from viewer.fusion_pictures import COLUMNS, HUGE, TOLD, Fused, affordable, draw_samples, fused, fusion_samples
from viewer.training_pictures import choose


@pytest.fixture
def told(labelled_once):
    """All that stage `fuse` reads, the rows of the images, and the keywords of the stage."""
    plan = plan_of(labelled_once.store, labelled_once.config)
    records = training.Records(labelled_once.store, plan, "fusion", writer("p").inputs)
    rows = [row for _, _, row in training.members(plan, "fusion")]
    return plan, records, rows, {"precision": "float32", **section(labelled_once.config, ("fuse",))}


def test_p_is_that_of_the_stage_and_the_rest_what_it_was_made_from(labelled_once, told):
    plan, records, rows, how = told
    store = labelled_once.store
    model = load_model(store, labelled_once.config, "fusion")
    for k, n in choose([row.sha256 for row in rows], [row.labels for row in rows], plan.classes):
        shown = fused(model, records[n], k + 1, plan.classes[k], rows[n].path, **how)
        place = plan.blocks[rows[n].block].index(rows[n])
        p, cam = (
            store.read_image(plan.receipts[writer(name).name][rows[n].block], name, place)
            for name in ("p", "cam")
        )
        height, width = rows[n].height, rows[n].width
        np.testing.assert_array_equal(shown.p, p[:height, :width])
        slot = rows[n].labels.index(plan.classes[k]) if len(rows[n].labels) == 1 else None
        if slot is not None:
            np.testing.assert_array_equal(shown.cam, cam[slot, :height, :width].astype(np.float32))
        assert shown.image.shape == (height, width, 3)
        assert (shown.look.min() >= 0, shown.look.max() <= 1) == (True, True)


def test_a_large_image_is_drawn_small(labelled_once, told, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 32)
    plan, records, rows, how = told
    model = load_model(labelled_once.store, labelled_once.config, "fusion")
    ((k, n), *_) = choose([row.sha256 for row in rows], [row.labels for row in rows], plan.classes)
    shown = fused(model, records[n], k + 1, plan.classes[k], rows[n].path, **how)
    assert max(shown.image.shape) == 32
    assert {plane.shape for plane in (shown.cam, shown.mean, shown.look, shown.p)} == {shown.image.shape[:2]}


def sample(name="dent", p=0):
    image, plane = np.full((30, 50, 3), 90, np.uint8), np.full((30, 50), 0.5, np.float32)
    return Fused(name, "a/$7$.png", image, plane, plane, plane, np.full((30, 50), p, np.uint8))


@pytest.mark.parametrize("crossed", [True, False])
def test_a_row_an_image_with_its_names_and_whether_it_was_seen(crossed):
    figure = fusion_samples([sample("$dent$", 1), sample("rust", 2)], crossed=crossed)
    assert len(figure.axes) == 2 * len(COLUMNS)
    said = [text.get_text() for text in figure.texts]
    assert said[: len(COLUMNS)] == list(COLUMNS)
    assert said[len(COLUMNS) :] == [r"\$dent\$", r"\$7\$", "rust", r"\$7\$", TOLD[crossed]]
    plain, *_, p = (axes.get_images()[0].get_array() for axes in figure.axes[: len(COLUMNS)])
    assert np.allclose(plain, 90 / 255)
    assert not np.allclose(p, p.mean()), "the class has its colour"
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes), "nothing is cut"


def test_large_images_are_few_and_every_class_comes_first():
    chosen = [(0, 4), (0, 2), (1, 7), (1, 1), (2, 5)]
    pixels = [10] * 8
    assert affordable(chosen, pixels, 50) == chosen
    assert affordable(chosen, pixels, 40) == [(0, 4), (0, 2), (1, 7), (2, 5)]
    assert affordable(chosen, pixels, 20) == [(0, 4), (1, 7)]
    assert affordable(chosen, pixels, 5) == [(0, 4)]
    assert affordable([], [], 5) == []


def test_a_large_image_leaves_its_room_to_smaller_ones_and_a_huge_one_is_not_drawn():
    assert affordable([(0, 1), (1, 0), (2, 2)], [1, 36, 1], 10) == [(1, 0), (2, 2)]
    assert affordable([(0, 1), (1, 0)], [20, 36], 10) == [(1, 0)]
    assert affordable([(0, 0)], [HUGE + 1]) == []


def test_the_picture_is_of_the_checkpoint_and_reads_no_other_image(labelled_once, told, tmp_path):
    plan, records, rows, how = told
    read = []

    class Watched:
        def __getitem__(self, n):
            read.append(n)
            return records[n]

    key = json.loads((labelled_once.store.root / "promoted.json").read_text())["fusion"]["digest"]
    checkpoint = labelled_once.store.root / "checkpoints" / f"{key}.safetensors"
    assert json.loads(load_checkpoint(checkpoint)[1][KIND])["cross_fitted"]
    chosen = choose([row.sha256 for row in rows], [row.labels for row in rows], plan.classes)[:1]
    paths = [row.path for row in rows]
    draw_samples(checkpoint, tmp_path, Watched(), chosen, plan.classes, paths, device="cpu", **how)
    assert read == [n for _, n in chosen]
    assert (tmp_path / "samples.png").is_file()


def test_nothing_to_show_is_no_fault(labelled_once, told, tmp_path):
    plan, records, _, how = told
    key = json.loads((labelled_once.store.root / "promoted.json").read_text())["fusion"]["digest"]
    checkpoint = labelled_once.store.root / "checkpoints" / f"{key}.safetensors"
    draw_samples(checkpoint, tmp_path, records, [], plan.classes, [], device="cpu", **how)
    assert not list(tmp_path.iterdir())
