"""A bar moves with every image, not with every block: with a large network a block takes half an hour."""

import io

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from small_run import Silent

from flows import execute
from flows.execute import BlockError
from flows.progress import Bars
from flows.steps import Run
from storage.lock import writer_lock
from storage.objects import StoreUnwritableError
from tasks.registry import stage


class Heard(Silent):
    def __init__(self):
        self.steps, self.total = {}, {}

    def start(self, name, total, unit):
        self.total[name] = (total, unit)

    def advance(self, name, images):
        self.steps.setdefault(name, []).append(images)


@pytest.fixture
def run(site):
    heard = Heard()
    with writer_lock(site.store.root):
        yield Run(site.store, site.config, heard), heard


def again(run, name):
    run.plan.force(name, run.plan.blocks)
    run.stage(stage(name))


@pytest.mark.parametrize("name", ["augment", "cam", "embed", "mask", "ensemble", "fuse"])
def test_every_image_is_told(run, name):
    run, heard = run
    images = sum(map(len, run.plan.blocks.values()))
    again(run, name)
    assert not run.summary.failures
    assert heard.total[name] == (images, "images")
    assert sum(heard.steps[name]) == images
    assert len(heard.steps[name]) > len(run.plan.blocks), "more often than once a block"


def test_where_memory_does_not_suffice_no_image_is_told_twice(run, monkeypatch):
    run, heard = run
    images = sum(map(len, run.plan.blocks.values()))
    before, failed = execute.halving, []

    def short(name, function, keywords, lowered):
        before(name, function, keywords, lowered)  # all of it, and then once more
        failed.append(name)
        return before(name, function, keywords, lowered)

    monkeypatch.setattr(execute, "halving", short)
    again(run, "mask")
    assert failed
    assert sum(heard.steps["mask"]) == images


def test_what_failed_is_not_done(run, monkeypatch):
    run, heard = run

    def failing(name, function, keywords, lowered):
        function(**keywords)
        raise ValueError("broken")

    monkeypatch.setattr(execute, "halving", failing)
    block = next(iter(run.plan.blocks))
    run.plan.force("mask", [block])
    with pytest.raises(BlockError, match="broken"):
        run.job.run(stage("mask"), block)
    assert min(heard.steps["mask"]) < 0
    assert sum(heard.steps["mask"]) == 0


def test_what_could_not_be_written_is_not_done(run, monkeypatch):
    run, heard = run

    def full(*words, **more):
        raise StoreUnwritableError("no space left")

    monkeypatch.setattr(run.store, "commit", full)
    with pytest.raises(StoreUnwritableError):
        again(run, "mask")
    assert sum(heard.steps["mask"]) == 0


def test_a_bar_that_was_full_goes_on_after_a_failure():
    with Progress(console=Console(file=io.StringIO())) as progress:
        shown = Bars(progress)
        shown.start("mask", 64, "images")
        shown.advance("mask", 64)
        shown.advance("mask", -64)
        shown.advance("mask", 10)
        assert not progress.tasks[0].finished


def test_embeddings_of_several_shards_give_the_same_masks(site, monkeypatch):
    monkeypatch.setattr("storage.arrays.PIECE", 1)
    blocks = ("b000000", "b000001")
    masks = {block: site.store.receipt("mask", block).arrays for block in blocks}
    with writer_lock(site.store.root):
        run = Run(site.store, site.config, Heard())
        again(run, "embed")
        again(run, "mask")
    for block in blocks:
        receipt = site.store.receipt("embed", block)
        shards = [name for name in receipt.files if name.startswith("embedding/c/")]
        assert len(shards) == receipt.images > 1
    assert {block: site.store.receipt("mask", block).arrays for block in blocks} == masks


def test_what_is_encoded_on_the_way_is_told_once(site):
    site.change(keep={"embedding": False, "augmented": False}, embed={"batch": 1})
    heard = Heard()
    with writer_lock(site.store.root):
        run = Run(site.store, site.config, heard)
        images = sum(map(len, run.plan.blocks.values()))
        run.close()  # drops what is kept no more
        again(run, "mask")
    assert not run.summary.failures
    assert set(heard.steps) == {"mask"}
    assert np.sum(heard.steps["mask"]) == images
