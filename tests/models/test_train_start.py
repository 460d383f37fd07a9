"""The embedded start's training goes on from weights and from states, and mixes neither up."""

import argparse

import numpy as np
import pytest
import torch

from models import train_start
from models.checkpoints import digest, load_checkpoint
from models.train_start import SIDES, Steps, _save_state, begin, export, resume, train


def test_a_run_that_begins_with_weights_goes_on_after_their_steps(tmp_path):
    first, weights = begin(1e-3, 0.02), tmp_path / "first.safetensors"
    first.step = 7
    export(first, weights, 0.5)
    second = begin(1e-3, 0.02, weights)
    assert (second.first, second.step) == (7, 0)
    assert all(p.requires_grad for p in second.network.parameters())
    for name, value in second.network.state_dict().items():
        kept = first.average.state_dict()[name]
        assert torch.equal(value, kept.half().float() if kept.is_floating_point() else kept), name
    second.step = 5
    export(second, tmp_path / "second.safetensors", 0.6)
    assert load_checkpoint(tmp_path / "second.safetensors")[1]["steps"] == "12"


def test_steps_draw_images_of_all_sides_with_as_many_pixels_each():
    drawn = Steps(first=3, count=4)
    batches = {step: drawn[step] for step in range(12)}
    assert {batch.image.shape[1] for batch in batches.values()} == set(SIDES)
    for batch in batches.values():
        count, side = batch.image.shape[:2]
        assert batch.image.shape == (count, side, side, 3)
        assert batch.kind.shape == (count, side, side)
        assert count == max(1, round(4 * (SIDES[0] / side) ** 2))
    later = Steps(first=5, count=4)  # a run that goes on after two more steps
    assert np.array_equal(later[0].image, batches[2].image)
    assert len({batch.image[0, 0, :8].tobytes() for batch in batches.values()}) == len(batches)


def options(folder, **changes):
    known = {"steps": 3, "minutes": 1e9, "batch": 2, "rate": 1e-3, "every": 50, "ahead": 0}
    return argparse.Namespace(**known | changes, state=folder / "start.pt", out=folder / "start.safetensors")


@pytest.fixture
def quick(monkeypatch):
    """Measures on nothing, and draws the smallest images alone."""
    monkeypatch.setattr(train_start, "measure", lambda start: 0.5)
    monkeypatch.setattr(train_start, "SIDE_SHARES", (1.0, 0.0, 0.0))


@pytest.mark.usefixtures("quick")
def test_a_killed_training_equals_an_undisturbed_one_and_is_not_done_twice(tmp_path, monkeypatch):
    digests = []
    for name, ahead in (("whole", 0), ("ahead", 2), ("killed", 0)):
        folder = tmp_path / name
        folder.mkdir()
        if name == "killed":
            whole, taken = train_start.train_step, []

            def killing(*given, whole=whole, taken=taken):
                if len(taken) == 2:
                    raise KeyboardInterrupt
                taken.append(given)
                return whole(*given)

            monkeypatch.setattr(train_start, "train_step", killing)
            with pytest.raises(KeyboardInterrupt):
                train(begin(1e-3, 0.02), options(folder, every=1))
            monkeypatch.setattr(train_start, "train_step", whole)
        run = begin(1e-3, 0.02)
        resume(run, folder / "start.pt")
        train(run, options(folder, ahead=ahead))
        assert run.step == 3
        digests.append(digest(folder / "start.safetensors"))
    assert len(set(digests)) == 1
    again = begin(1e-3, 0.02)
    resume(again, folder / "start.pt")
    train(again, options(folder))
    assert again.step == 3


@pytest.mark.usefixtures("quick")
def test_the_minutes_end_a_training_and_a_finished_one_stays_so(tmp_path):
    run = begin(1e-3, 0.02)
    train(run, options(tmp_path, steps=1000, minutes=1e-6))
    assert run.step == 1
    again = begin(1e-3, 0.02)
    resume(again, tmp_path / "start.pt")
    assert again.elapsed == run.elapsed > 0
    train(again, options(tmp_path, steps=1000, minutes=1e-6))
    assert again.step == 1


def test_the_state_of_a_run_from_other_weights_is_refused(tmp_path):
    first, state = begin(1e-3, 0.02), tmp_path / "start.pt"
    first.step = 7
    _save_state(first, state)
    again = begin(1e-3, 0.02)
    resume(again, state)
    assert again.step == 7
    export(first, tmp_path / "first.safetensors", 0.5)
    with pytest.raises(ValueError, match="began after 0 steps, not 7; name another --state"):
        resume(begin(1e-3, 0.02, tmp_path / "first.safetensors"), state)
