"""`status` and the pages tell who is writing to a store, since when, and how far that is."""

import json
import re

import pytest
from labelled_store import Silent
from obstore.exceptions import BaseError
from rich.console import Console

from flows import browse, underway
from flows.steps import Run
from flows.summary import plan_of, print_status, stored_config
from flows.underway import KEY, Noted, words_of
from storage.lock import KEY as LOCK
from storage.store import Store
from tasks.registry import stage
from viewer import pages


def noted(store):
    return json.loads((store.root / KEY).read_text())


def status(store):
    with (console := Console(width=300)).capture() as caught:
        print_status(store.root, console)
    return caught.get()


def test_a_run_notes_its_step_at_once_and_then_now_and_then(tmp_path, monkeypatch):
    store, moments = Store(tmp_path), [0.0]
    monkeypatch.setattr(underway.time, "monotonic", lambda: moments[0])
    with store.writing():
        shown = Noted(Silent(), store)
        shown.start("mask", 12, "images")
        assert (noted(store)["step"], noted(store)["done"], noted(store)["total"]) == ("mask", 0, 12)
        assert noted(store)["token"] == store.fence
        shown.advance("mask", 4)
        assert noted(store)["done"] == 0, "not with every image"
        moments[0] += underway.EVERY
        shown.advance("mask", 4)
        assert noted(store)["done"] == 8
        shown.start("train_vit", 0, "steps")
        assert noted(store)["step"] == "train_vit"
        moments[0] += underway.EVERY
        shown.reach("train_vit", 3, 20, 0.5, "images read")
        assert (noted(store)["done"], noted(store)["total"], noted(store)["unit"]) == (3, 20, "images read")


def test_what_cannot_be_noted_does_not_end_a_run(tmp_path, monkeypatch):
    store = Store(tmp_path)
    with store.writing():
        shown = Noted(Silent(), store)
        monkeypatch.setattr(store, "fence", store.fence + 1)  # somebody has taken over
        shown.start("mask", 12, "images")
    assert not (tmp_path / KEY).exists()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BaseError("the server said no")])
def test_nor_does_a_note_that_no_disk_or_server_takes(tmp_path, monkeypatch, error):
    tried = []

    def put(key, value):
        tried.append(key)
        raise error

    store = Store(tmp_path)
    with store.writing():
        shown = Noted(Silent(), store)
        monkeypatch.setattr(store, "put", put)
        shown.start("mask", 12, "images")
        shown.finish("mask")
    assert tried == [KEY, KEY]


def test_a_steps_last_figures_are_noted_when_it_ends(tmp_path):
    store = Store(tmp_path)
    with store.writing():
        shown = Noted(Silent(), store)
        shown.start("fuse", 12, "images")
        shown.advance("fuse", 12)
        assert noted(store)["done"] == 0
        shown.finish("fuse")
        assert noted(store)["done"] == 12


def test_a_run_that_closes_says_so(labelled):
    store = labelled.store
    with store.writing():
        run = Run(store, labelled.config, Silent())
        assert "look" in words_of(store)
        run.close()
        said = words_of(store)
    assert re.search(r"\); close \(noted \d+ s ago\)$", said)


@pytest.mark.parametrize("left", ['{"process": 1, "host": "a", "token": 3}', "no json"])
def test_a_lock_that_does_not_say_is_no_word_of_no_run(labelled, left):
    (labelled.store.root / LOCK).write_text(left)
    said = status(labelled.store)
    assert "the lock does not say whether anybody writes (of an older version, or unreadable)" in said
    assert "no run is under way" not in said


def test_status_tells_of_a_run_and_when_there_is_none(labelled):
    assert "no run is under way" in status(labelled.store)
    store = labelled.store
    with store.writing():
        run = Run(store, labelled.config, Silent())
        run.plan.force("ensemble", run.plan.blocks)
        run.stage(stage("ensemble"))
        said = status(labelled.store)
    assert re.search(
        r"a run is under way: process \d+ on \S+, since [\d-]+ [\d:]+ UTC \(\d+ s\); ensemble: \d of 8 images, "
        r"2 of 2 blocks \(noted \d+ s ago\)",
        said,
    )
    assert "no run is under way" in status(labelled.store)


def test_another_holders_note_is_not_taken_for_this_ones(labelled):
    store = labelled.store
    with store.writing():
        Noted(Silent(), store).start("mask", 12, "images")
    with store.writing():
        said = words_of(store)
    assert said.startswith("the store is being written: process")
    assert "mask" not in said


def test_a_stale_lock_is_told_as_such_with_where_it_ended(labelled):
    store = labelled.store
    with store.writing():
        Noted(Silent(), store).start("mask", 8, "images")
        left = (store.root / LOCK).read_text()
    dead = json.loads(left) | {"began": 1}
    (store.root / LOCK).write_text(json.dumps(dead))
    said = status(store)
    assert (
        f"no run is under way; process {dead['process']} on {dead['host']}, which held the store since"
        in said
    )
    assert (
        "was stopped or killed; it was at mask: 0 of 8 images, 2 of 2 blocks (the next run takes over" in said
    )
    far = dead | {"where": "another/1", "host": "elsewhere"}
    (store.root / LOCK).write_text(json.dumps(far))
    assert "whether it still runs cannot be seen from this machine" in status(store)
    namesake = dead | {"where": "another/1"}
    (store.root / LOCK).write_text(json.dumps(namesake))
    said = status(store)
    assert "stopped or killed" not in said
    assert "it ended on this machine's restart, or is on another machine of that name" in said
    assert "it was at mask: 0 of 8 images" in said


def test_status_takes_no_lock_and_writes_nothing(labelled):
    store = labelled.store
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    with store.writing():
        status(Store(store.root))
        assert store.objects.get(LOCK) is not None
        store.put("probe", b"")  # the token is still ours
    after = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == {LOCK, "probe"}


def test_the_run_page_tells_it(labelled):
    store, index = labelled.store, browse.open_index(labelled.store.root)
    keeper = browse.Keeper(store.root, index, None)
    assert keeper.pulse()["run"] == "", "before the store is open"
    keeper._backend = browse.open_backend(store.root, index, None)
    keeper._backend.refresher.run()

    def shown():
        page = pages.run("a store", index, keeper.pulse(), {})
        return re.search(r'<p class="doing" id="under-way"( hidden)?>(.*?)</p>', page).groups()

    assert shown() == (" hidden", "")
    with store.writing():
        Noted(Silent(), store).start("<mask>", 8, "images")
        hidden, words = shown()
    assert hidden is None
    assert "&lt;mask&gt;: 0 of 8 images" in words


def test_the_plan_of_a_status_counts_the_blocks_of_the_step(labelled):
    store = labelled.store
    plan = plan_of(store, stored_config(store))
    plan.force("mask", [next(iter(plan.blocks))])
    with store.writing():
        Noted(Silent(), store).start("mask", 8, "images")
        assert "mask: 0 of 8 images, 1 of 2 blocks" in words_of(store, plan)
