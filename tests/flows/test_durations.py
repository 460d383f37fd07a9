"""How long a training took is kept, and the next one's time is told from it."""

import io
import re

import pytest
from labelled_store import Silent
from rich.console import Console

from flows import durations, estimate, promotion, training
from flows.durations import CALIBRATED, JUDGED, TIMED, Stopwatch, expected, last, remember, steps_of
from flows.forecast import print_plan
from flows.networks import PROMOTED, promoted
from flows.recipes import training_section
from flows.steps import Run
from models.hardware import device_name
from models.telling import LOOK_STEPS, READ, STEPS
from storage.store import Store

MEASURED = {"basis": "a", "images": 10, "parts": {READ: [10, 20.0], STEPS: [100, 50.0], "pictures": [2, 3.0]}}


def changed(config, **sections):
    """The config with some fields of its sections changed."""
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def run_of(labelled, config):
    return Run(labelled.store, config, Silent(), dry=True)


def test_a_stopwatch_passes_on_what_it_hears_and_adds_up_each_part(monkeypatch):
    moments, heard = iter([0.0, 2.0, 3.0, 7.0]), []
    monkeypatch.setattr(durations.time, "perf_counter", lambda: next(moments))
    watch = Stopwatch(lambda *words: heard.append(words))
    for words in ((1, 2, 0.0, READ), (2, 2, 0.0, READ), (1, 9, 0.5, STEPS)):
        watch(*words)
    assert watch.parts == {READ: (2, 3.0), STEPS: (1, 4.0)}
    assert heard == [(1, 2, 0.0, READ), (2, 2, 0.0, READ), (1, 9, 0.5, STEPS)]


def test_steps_count_by_their_number_and_reading_by_the_images():
    assert expected(MEASURED, "a", 10, {STEPS: 100}, {}, 0) == 73
    assert expected(MEASURED, "a", 10, {STEPS: 200}, {}, 0) == 73 + 50
    assert expected(MEASURED, "a", 30, {STEPS: 100}, {}, 0) == 73 + 40


@pytest.mark.parametrize("before", [False, True])
def test_judging_counts_by_networks_and_grows_up_to_its_cap(before):
    judged = {unit: [2, 6.0] for unit in JUDGED[: 1 + before]}
    measured = MEASURED | {"parts": MEASURED["parts"] | judged}

    def told(images, networks, most):
        reading = 20.0 * images / 10
        found = expected(measured, "a", images, {STEPS: 100}, dict.fromkeys(JUDGED, most), networks)
        return found - reading - 53

    assert [told(10, networks, 15) for networks in (0, 1, 2)] == [0, 6, 12]
    assert told(15, 2, 15) == told(90, 2, 15) == 18
    assert told(90, 1, 5) == 6, "the last one had reached it"


def test_calibration_grows_up_to_its_cap():
    measured = MEASURED | {"parts": MEASURED["parts"] | {CALIBRATED: [10, 4.0]}}
    steps, caps = {STEPS: 100}, {CALIBRATED: 20}
    assert expected(measured, "a", 10, steps, caps, 0) == 77
    assert expected(measured, "a", 90, steps, caps, 0) == 77 + 160 + 4


def test_what_was_not_measured_like_this_has_no_time():
    assert expected(MEASURED, "b", 10, {STEPS: 100}, {}, 0) is None
    assert expected(MEASURED, "a", 10, {STEPS: 100, LOOK_STEPS: 8}, {}, 0) is None
    assert expected(MEASURED, "a", 10, {STEPS: 100, LOOK_STEPS: 0}, {}, 0) == 73
    assert expected(MEASURED, "a", 10, {STEPS: 100}, {}, 1) is None, "nothing was judged"


def test_a_training_taken_up_after_its_last_step_leaves_the_last_measure(tmp_path):
    store = Store(tmp_path)
    assert last(store, "vit") is None
    remember(store, "vit", "a", 5, {READ: (5, 1.0), STEPS: (4, 2.0)}, "a GPU")
    remember(store, "vit", "a", 5, {"pictures": (2, 0.1)}, "a GPU")
    assert last(store, "vit")["parts"] == {READ: [5, 1.0], STEPS: [4, 2.0]}
    promotion.promote(store, "vit", {"digest": "d"})
    promotion.decline(store, "fusion", "run", "why")
    assert last(store, "vit")["images"] == 5, "other news of the networks leaves it alone"


@pytest.mark.parametrize("kind", ["vit", "fusion"])
def test_a_training_takes_the_steps_that_were_foreseen(labelled_once, kind):
    found = last(labelled_once.store, kind)
    foreseen = steps_of(kind, training_section(labelled_once.config, kind), found["images"])
    taken = {unit: units for unit, (units, _) in found["parts"].items() if unit in (STEPS, LOOK_STEPS)}
    assert found["images"] == 8
    assert taken == pytest.approx(foreseen), "none of them ended early"


@pytest.mark.parametrize("kind", ["vit", "fusion"])
def test_the_next_training_is_told_by_the_last_one(labelled_once, kind):
    section = f"train_{kind}"
    config, store = labelled_once.config, labelled_once.store
    plan = run_of(labelled_once, config).plan
    parts = last(store, kind)["parts"]
    new, old = JUDGED
    assert new in parts
    assert old not in parts, "it was the store's first"
    unjudged = sum(seconds for unit, (_, seconds) in parts.items() if unit != new)
    whole = unjudged + 2 * parts[new][1]
    assert training.seconds_of(store, config, plan, kind) == pytest.approx(whole)
    always = changed(config, retrain={"promote": "always"})
    assert training.seconds_of(store, always, plan, kind) == pytest.approx(unjudged)
    longer = {"vit": {"min_steps": 100}, "fusion": {"min_steps": 8, "max_steps": 8}}[kind]
    assert training.seconds_of(store, changed(config, **{section: longer}), plan, kind) > whole
    other = changed(config, cam={"low": 0.3}, train_fusion={"floor": 0.2})
    assert training.seconds_of(store, other, plan, kind) == pytest.approx(whole), (
        "a step takes as long as before"
    )
    slower = {"vit": {"side": 96}, "fusion": {"crop": 64}}[kind]
    assert training.seconds_of(store, changed(config, **{section: slower}), plan, kind) is None
    assert training.seconds_of(Store(store.root / "none"), config, plan, kind) is None


@pytest.mark.parametrize("device", ["NVIDIA Tesla T4", None])
def test_the_time_of_another_device_or_of_one_that_was_not_noted_is_not_told(labelled, device):
    store, config = labelled.store, labelled.config
    plan = run_of(labelled, config).plan
    assert training.seconds_of(store, config, plan, "vit") is not None
    everything = store.read_json(PROMOTED)
    noted = everything[TIMED]["vit"].pop("device")
    assert noted == device_name("cpu")
    everything[TIMED]["vit"] |= {"device": device} if device else {}
    store.write_json(PROMOTED, everything)
    assert training.seconds_of(store, config, plan, "vit") is None
    assert training.seconds_of(store, config, plan, "fusion") is not None


@pytest.mark.parametrize(("promote", "judged"), [("checked", JUDGED), ("always", ())])
def test_what_is_judged_is_called_and_counted_as_it_is_told(labelled_once, promote, judged):
    store, config = labelled_once.store, changed(labelled_once.config, retrain={"promote": promote})
    plan, heard = run_of(labelled_once, config).plan, []
    path = store.root / "checkpoints" / f"{promoted(store, 'vit')['digest']}.safetensors"
    promotion.judge(store, config, plan, "vit", path, lambda *words: heard.append(words[3]))
    assert tuple(dict.fromkeys(heard)) == judged
    assert promotion.judged(store, config, plan, "vit")[0] == len(judged)
    assert CALIBRATED in last(store, "vit")["parts"]


def test_plan_and_estimate_tell_it(labelled):
    path = labelled.root / "run.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 4"))
    found = estimate.whole_estimate(run_of(labelled, labelled.config), {})
    assert set(found.trainings) == {"vit", "fusion"}
    assert {"train_vit", "train_fusion"} <= found.seconds.keys()
    assert f"about {found.seconds['train_vit'] / 60:.1f}" in row(path, "train_vit")
    assert "not measured yet" not in row(path, "train_vit")
    with (console := Console(width=400)).capture() as caught:
        estimate.announce(run_of(labelled, labelled.config), console)
    assert re.search(r"train_vit about \d", caught.get())
    path.write_text(path.read_text().replace("side: 64", "side: 96"))
    found = estimate.whole_estimate(run_of(labelled, labelled.config), {})
    assert found.unknown == ("train_vit",)
    assert "not measured yet" in row(path, "train_vit")
    assert "not measured yet" not in row(path, "train_fusion")


def row(path, step):
    """The line of a step in what `bluemask plan` prints."""
    sink = io.StringIO()
    print_plan(path, Console(file=sink, width=200), Console(file=io.StringIO()))
    return next(line for line in sink.getvalue().splitlines() if step in line)
