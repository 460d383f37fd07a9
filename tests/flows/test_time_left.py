"""The log and `status` tell how much time is left, once a part of a step has shown its pace."""

import io
import json

import pytest
from labelled_store import Silent
from rich.console import Console

from flows import progress
from flows.progress import SETTLED, Lines, Pace, about_left
from flows.underway import KEY, Noted, words_of
from models.telling import READ, STEPS
from storage.lock import KEY as LOCK
from storage.store import Store


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set: its only item, in seconds."""
    moments = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: moments[0])
    return moments


@pytest.fixture
def log(clock):
    """A log with a line for each call, and its last line without the time of day."""
    sink = io.StringIO()
    lines = Lines(Console(file=sink, width=200), every=0)
    return lines, lambda: sink.getvalue().splitlines()[-1].split(" ", 1)[1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""), (0.2, ", about 1 s left"), (40, ", about 40 s left"), (240, ", about 4 min left"),
        (7200, ", about 2.0 h left"),
    ],
)  # fmt: skip
def test_a_time_is_told_in_the_unit_that_suits_it(seconds, words):
    assert about_left(seconds) == words


@pytest.mark.parametrize("rate", [0.1, 1, 7])
def test_at_an_even_pace_the_time_left_is_what_is_then_taken(rate):
    pace = Pace(5.0)
    for took in (SETTLED, 60.0, 90.0):
        done = rate * took
        assert pace.left(done, rate * 100, 5 + took) == pytest.approx(100 - took)
    assert pace.left(rate * 100, rate * 100, 105.0) is None, "nothing is left"


def test_the_log_tells_of_images_once_a_stage_has_gone_on_for_a_while(log, clock):
    lines, said = log
    lines.start("mask", 100, "images")
    clock[0] += SETTLED - 1
    lines.advance("mask", 10)
    assert said() == "mask: 10/100 images"
    clock[0] += 6  # 25 s
    lines.advance("mask", -10)
    assert said() == "mask: 0/100 images", "nothing is done: a block failed"
    lines.advance("mask", 10)
    assert said() == "mask: 10/100 images, about 4 min left"
    clock[0] += 5
    lines.finish("mask")
    assert said() == "mask: 10/100 images in 30.0 s"


def test_what_an_earlier_run_did_of_a_training_is_no_pace(log, clock):
    lines, said = log
    lines.start("train_vit", 0, "steps")
    clock[0] += 100  # what comes before the first step
    lines.reach("train_vit", 201, 300, 0.5, "steps")
    assert said() == "train_vit: 201/300 steps"
    clock[0] += 30
    lines.reach("train_vit", 211, 300, 0.5, "steps")
    assert said() == "train_vit: 211/300 steps, about 4 min left", "89 steps of 3 s"
    clock[0] += 30
    lines.reach("train_vit", 300, 300, 0.5, "steps")
    assert said() == "train_vit: 300/300 steps"


def test_each_part_of_a_training_has_its_own_pace(log, clock):
    lines, said = log
    lines.start("train_vit", 0, "steps")
    lines.reach("train_vit", 1, 50, unit="images read")
    clock[0] += 40
    lines.reach("train_vit", 41, 50, unit="images read")
    assert said() == "train_vit: 41/50 images read, about 9 s left"
    clock[0] += 9
    lines.reach("train_vit", 1, 21, 0.5, "steps")
    assert said() == "train_vit: 1/21 steps"
    clock[0] += 600
    lines.reach("train_vit", 2, 21, 0.5, "steps")
    assert said() == "train_vit: 2/21 steps, about 3.2 h left"
    lines.reach("train_vit", 1, 21, 0.5, "steps")
    assert said() == "train_vit: 1/21 steps", "the same part once more"


def test_status_tells_it_too_until_the_step_is_over(tmp_path, clock):
    store = Store(tmp_path)
    with store.writing():
        shown = Noted(Silent(), store)
        shown.start("train_vit", 0, "steps")
        shown.reach("train_vit", 2, 300, 0.5, "steps")
        clock[0] += 30
        shown.reach("train_vit", 12, 300, 0.5, "steps")
        assert "; train_vit: 12 of 300 steps, about 14 min left (noted " in words_of(store)
        shown.finish("train_vit")  # early, as nothing improved
        assert "; train_vit: 12 of 300 steps (noted " in words_of(store)
        shown.start("fuse", 8, "images")
        clock[0] += 30
        shown.advance("fuse", 4)
        assert "; fuse: 4 of 8 images, about 30 s left (noted " in words_of(store)


def test_a_note_of_an_older_version_is_read(tmp_path):
    store = Store(tmp_path)
    with store.writing():
        Noted(Silent(), store).start("mask", 12, "images")
        note = json.loads((tmp_path / KEY).read_text())
        del note["left"]
        store.put(KEY, json.dumps(note).encode())
        assert "; mask: 0 of 12 images (noted " in words_of(store)


def test_a_run_that_is_gone_has_no_time_left(tmp_path, clock):
    store = Store(tmp_path)
    with store.writing():
        shown = Noted(Silent(), store)
        shown.start("mask", 8, "images")
        clock[0] += 30
        shown.advance("mask", 2)
        assert "2 of 8 images, about 2 min left" in words_of(store)
        left = json.loads((tmp_path / LOCK).read_text()) | {"began": 1}
    (tmp_path / LOCK).write_text(json.dumps(left))
    said = words_of(store)
    assert "it was at mask: 2 of 8 images (the next run" in said
    assert "about" not in said


@pytest.mark.parametrize(("first", "told"), [(38, True), (1, False)])
def test_the_log_tells_that_a_training_goes_on(clock, first, told):
    sink = io.StringIO()
    lines = Lines(Console(file=sink, width=200), every=60)
    lines.start("train_vit", 0, "steps")
    lines.reach("train_vit", 16, 16, unit=READ)
    lines.reach("train_vit", first, 300, unit=STEPS)
    lines.reach("train_vit", first + 1, 300, unit=STEPS)
    assert sink.getvalue().count("train_vit: goes on where it was: 38/300 steps") == told
