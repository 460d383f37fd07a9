"""A bar moves with every image, not with every block: with a large network a block takes half an hour."""

import numpy as np
import pytest
from small_run import Silent

from flows import execute
from flows.execute import BlockError
from flows.steps import Run
from storage.lock import writer_lock
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
