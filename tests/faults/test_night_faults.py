"""What a night does with damage that is not an image's: reviews, a small disk, blocks that fail."""

import io
import re

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from small_run import Silent

from flows import estimate, nights
from flows.begin import all_steps
from flows.outcome import Summary
from flows.progress import Bars, Lines
from flows.runners import Alone
from flows.steps import Run
from storage.receipts import seal
from storage.reviews import Review, Reviews
from storage.store import Store, StoreError
from tasks.registry import stage


def nightly(site):
    return all_steps(site.config, Alone(site.config), None, Console(quiet=True))


def test_a_damaged_review_stops_no_night_and_is_told(site, tell):
    site.change(train_fusion={"checkpoint": None})
    row = next(row for row in Run(site.store, site.config, Silent(), dry=True).catalogue.rows if row.labels)
    reviews = Reviews(site.store)
    digest = reviews.keep_mask(row.sha256, np.zeros((row.height, row.width), np.uint8))
    reviews.add(row.sha256, Review(verdict="accept", judged=digest, mask=digest))
    for folder in ("reviews", "copies/reviews"):
        (site.store.root / folder / f"{row.sha256}.json").write_text("{")
    site.change(fuse={"views": 2}, ensemble={"votes": 2})
    summary = nightly(site)
    assert set(summary.failures) == {"train_fusion"}
    assert "verify" in summary.failures["train_fusion"]
    assert summary.done["ensemble"] == 2, "what needs no new network still goes on"
    tell("review damaged, and its copy", 1, "named; no training forgets it; every other step done")


def test_a_scheduled_run_looks_at_the_disk_before_it_starts(site, monkeypatch):
    site.change(ensemble={"votes": 2})
    monkeypatch.setattr(
        estimate.shutil, "disk_usage", lambda _: estimate.shutil._ntuple_diskusage(100, 100, 0)
    )
    with pytest.raises(StoreError, match="nothing was started"):
        nightly(site)
    assert site.todo()["ensemble"] == 8


def test_a_failed_block_keeps_last_nights_figures(site, monkeypatch):
    nightly(site)
    before = site.store.read_json(nights.LAST)["night"]
    site.change(ensemble={"votes": 2})
    run = Run(site.store, site.config, Silent(), dry=True)
    assert not any(run.plan.fresh(stage("fuse"), block) for block in run.plan.blocks)
    night = nights.take_stock(site.store, run.plan, Summary(run.catalogue))
    assert night.images == before["images"]
    assert night.shares == before["shares"]
    assert night.changed == 0
    assert not any(night.drift.values())


def test_equal_files_with_different_labels_are_no_change(site):
    rows = [row for row in Run(site.store, site.config, Silent(), dry=True).catalogue.rows if row.labels]
    first = site.images / rows[0].path
    (site.images / "scratch" / "same.png").write_bytes(first.read_bytes())
    nightly(site)
    run = Run(site.store, site.config, Silent(), dry=True)
    assert nights.take_stock(site.store, run.plan, Summary(run.catalogue)).changed == 0


def test_arrays_that_were_taken_back_are_as_new(site):
    old = site.store.receipt("ensemble", "b000000")
    site.change(ensemble={"votes": 2})
    site.finish()
    earlier = old.model_copy(update={"made": "2020-01-01T00:00:00+00:00"})
    site.store.put("receipts/ensemble/b000000.prev.json", seal(earlier))
    site.change(ensemble={"votes": 3})
    site.finish()
    back = site.store.receipt("ensemble", "b000000")
    assert back.group == old.group
    assert back.made > "2026", "or pruning would take what it replaced for replaced long ago"


def test_a_log_gets_lines_while_a_run_is_under_way():
    sink = io.StringIO()
    lines = Lines(Console(file=sink, width=100), every=0)
    lines.start("mask", 100, "images")
    lines.advance("mask", 36)
    lines.finish("mask")
    lines.start("train_vit", 0, "steps")
    lines.reach("train_vit", 16, 16, 0.5, "images read")
    lines.reach("train_vit", 5, 54, 0.5, "steps")
    lines.start("fuse", 1, "images")
    lines.finish("train_vit")
    said = sink.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in said if " in " not in line] == [
        "mask: 100 images",
        "mask: 36/100 images",
        "train_vit: begins",
        "train_vit: 16/16 images read",
        "train_vit: goes on where it was: 5/54 steps",
        "fuse: 1 image",
    ]
    assert any(re.search(r"mask: 36/100 images in \d+\.\d s$", line) for line in said)
    assert re.search(r"train_vit: ended in \d+\.\d s$", said[-1]), "not of its last part alone"


def test_a_bar_begins_anew_with_each_part_of_a_training():
    with Progress(console=Console(file=io.StringIO())) as progress:
        shown = Bars(progress)
        shown.start("train_fusion", 0, "steps")
        for done in range(1, 5):
            shown.reach("train_fusion", done, 4, unit="images read")
        task = progress.tasks[0]
        started = task.start_time
        assert task.finished
        shown.reach("train_fusion", 1, 4, unit="images read again")
        assert (task.completed, task.total, task.fields["unit"]) == (1, 4, "images read again")
        assert not task.finished
        assert task.start_time == started


def test_a_store_whose_first_run_is_under_way_is_told_as_such(tmp_path):
    store = Store(tmp_path / "store")
    with store.writing(), pytest.raises(StoreError, match="a run began there"):
        Store.existing(store.root)
