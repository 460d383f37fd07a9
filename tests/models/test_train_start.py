"""The embedded start's training goes on from weights and from states, and mixes neither up."""

import pytest
import torch

from models.checkpoints import load_checkpoint
from models.train_start import _save_state, begin, export, resume


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
