"""Training of `tiny` SAM: it learns, it can be killed, and what it writes can be built."""

import argparse

import numpy as np
import pytest
import torch

from models import train_sam
from models.checkpoints import load_checkpoint, save_checkpoint
from models.sam import build_sam
from models.sam_batches import Steps, draw_batch, draw_pool
from models.start import EMBEDDED
from models.train_sam import (
    export,
    learning_rate,
    load_state,
    progress_of,
    save_state,
    spread,
    start,
    step_loss,
    train,
)


@pytest.fixture(scope="module")
def pool():
    return draw_pool(0, 12, workers=1)


def arguments(folder, steps):
    return argparse.Namespace(
        steps=steps, minutes=60.0, images=3, groups=1, rate=1e-3, seed=0, save_minutes=60.0, ahead=0,
        state=folder / "state.pt", out=folder / "tiny.safetensors",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Scores 2 images instead of 100 when it saves, and logs at each step."""
    whole = train_sam.piece_iou
    monkeypatch.setattr(train_sam, "piece_iou", lambda sam, images, points: whole(sam, 2, points))
    monkeypatch.setattr(train_sam, "LOG_EVERY", 1)


def weights(training):
    return {
        **training.sam.state_dict(),
        **{f"average {k}": v for k, v in training.average.state_dict().items()},
    }


def test_a_resumed_training_equals_an_undisturbed_one(tmp_path, pool, monkeypatch):
    # steps alone decide the progress: time would differ from run to run
    monkeypatch.setattr(train_sam, "progress_of", lambda training, steps, minutes: training.step / steps)
    args = arguments(tmp_path, steps=4)
    whole = start(0)
    train(whole, pool, args)
    broken = start(0)
    for _ in range(2):
        train_sam._one_step(broken, Steps(pool, 0, 3, 1)[broken.step], args, broken.step / 4)
    save_state(broken, args.state)
    resumed = start(1)
    load_state(resumed, args.state)
    assert resumed.step == 2
    train(resumed, pool, args)
    assert resumed.step == whole.step == 4
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_processes_that_draw_ahead_change_nothing(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(train_sam, "progress_of", lambda training, steps, minutes: training.step / steps)
    made = []
    for ahead in (0, 2):
        args, training = arguments(tmp_path, steps=3), start(0)
        args.ahead = ahead
        train(training, pool, args)
        made.append(weights(training))
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())


def test_the_loss_falls_on_a_batch_not_drawn_for_training(tmp_path, pool):
    args, training = arguments(tmp_path, steps=10), start(0)
    args.rate = 0.03  # of which the warm-up leaves a hundredth
    batch = draw_batch(np.random.default_rng(77), pool, 6, 2)
    with torch.no_grad():
        before = step_loss(training, batch, 0.0, refine=True)
    for _ in range(10):
        train_sam._one_step(training, Steps(pool, 0, 3, 1)[training.step], args, 0.0)
    with torch.no_grad():
        after = step_loss(training, batch, 0.0, refine=True)
    assert after < 0.98 * before


def test_the_log_says_how_fast_it_is_and_what_is_left(tmp_path, pool, capsys):
    train(start(0), pool, arguments(tmp_path, steps=2))
    lines = capsys.readouterr().out.splitlines()
    assert sum("s a step" in line and "min left" in line for line in lines) == 2
    assert "instance IoU" in lines[-1]


def test_what_it_exports_is_small_and_can_be_built(tmp_path):
    training = start(3)
    digest = export(training, tmp_path / "tiny.safetensors")
    tensors, metadata = load_checkpoint(tmp_path / "tiny.safetensors")
    assert metadata == {"model": "tiny", "steps": "0"}
    assert (tmp_path / "tiny.safetensors").stat().st_size < 8e6
    assert len(digest) == 64
    sam = build_sam("tiny", tmp_path / "tiny.safetensors")
    for name, tensor in training.average.state_dict().items():
        if name in tensors:
            torch.testing.assert_close(sam.state_dict()[name], tensor.float(), rtol=1e-3, atol=1e-4)


def test_the_learning_rate_rises_then_falls():
    rates = [learning_rate(step, step / 3000, 1e-3) for step in range(3000)]
    peak = rates.index(max(rates))
    assert 200 < peak <= 310
    assert rates[0] < 1e-5
    assert rates[-1] < 2e-5
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_progress_is_by_steps_or_by_time_whichever_is_further():
    training = start(0)
    training.step, training.elapsed = 10, 120.0
    assert progress_of(training, steps=100, minutes=4) == 0.5
    assert progress_of(training, steps=12, minutes=4) == 10 / 12


def test_a_second_training_begins_where_the_first_one_s_export_ended(pool, tmp_path):
    args = arguments(tmp_path, steps=2)
    train(start(0), pool, args)
    begun = start(7, args.out)
    known, _ = load_checkpoint(args.out)
    for name, tensor in begun.sam.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, known[name].float())
    begun.step = 5
    export(begun, tmp_path / "second.safetensors")
    assert load_checkpoint(tmp_path / "second.safetensors")[1]["steps"] == "7"


def test_a_training_begins_with_weights_of_another_input_side(tmp_path, monkeypatch):
    known = {name: tensor.clone() for name, tensor in start(0).sam.state_dict().items()}
    known[train_sam.POSITION] = known[train_sam.POSITION][:, :64].normal_()  # 8 x 8 tokens: 128 pixels
    save_checkpoint(tmp_path / "small.safetensors", known, {"model": "tiny", "steps": "5"})
    begun = start(7, tmp_path / "small.safetensors")
    assert begun.before == 5
    torch.testing.assert_close(begun.sam.image_encoder.position, spread(known[train_sam.POSITION], 144))


def test_weights_of_something_else_are_no_beginning():
    with pytest.raises(ValueError, match="does not hold the weights of `tiny`"):
        start(0, EMBEDDED)


def test_positions_of_another_input_side_keep_their_place():
    steps = torch.arange(4.0)
    position = torch.stack([steps[:, None].expand(4, 4), steps.expand(4, 4)], -1).reshape(1, 16, 2)
    wide = spread(position, 36).reshape(6, 6, 2)
    assert (wide[1:, :, 0] > wide[:-1, :, 0]).all()
    assert (wide[:, 1:, 1] > wide[:, :-1, 1]).all()
    torch.testing.assert_close(wide[..., 0], wide[..., 1].T)
    assert wide[0, 0].abs().max() < 0.3, "the corner stays the corner"
    assert spread(position, 16) is position
