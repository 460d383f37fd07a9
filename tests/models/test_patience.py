import numpy as np
import pytest

from models import patience
from models.patience import Patience


def run(losses, share=0.3, since=0.2, steps=None):
    watch = Patience(steps or len(losses), share, since)
    for loss in losses:
        watch.see(float(loss))
        if watch.over:
            break
    return watch


def noisy(falls, steps=1000, noise=0.3):
    time = np.arange(steps) / steps
    return falls(time) * np.exp(np.random.default_rng(0).normal(0, noise, steps))


@pytest.mark.parametrize(
    "losses", [np.ones(1000), np.zeros(1000), np.full(1000, np.nan), np.linspace(1, 2, 1000)]
)
def test_a_loss_that_does_not_fall_ends_the_training_as_soon_as_it_may(losses):
    ended = run(losses)
    assert (
        ended.told() == "599 of 1000: nothing improved after 299"
    )  # the first mean of enough losses, and the share


def test_none_ends_in_its_first_half():
    assert run(np.ones(1000), share=0.1, since=0).seen == 500


@pytest.mark.parametrize(
    "falls", [lambda t: np.exp(-4 * t), lambda t: 0.5 + 0.5 * np.exp(-3 * t), lambda t: 1 - 0.3 * t]
)
def test_a_noisy_loss_that_falls_does_not(falls):
    ended = run(noisy(falls))
    assert ended.told() == "1000"


def test_a_loss_that_falls_and_then_stays_ends_it_after_the_share():
    ended = run(np.maximum(1 - np.arange(2000) / 1000, 0.2), steps=2000)
    assert ended.over
    assert ended.seen - ended.at == 600
    assert 950 <= ended.at <= 1000  # the mean falls until it holds nothing of the fall


def test_what_comes_in_late_does_not_look_like_a_rise():
    losses = np.linspace(1, 0.8, 1000) + (np.arange(1000) >= 330)
    assert run(losses, since=0.33).seen == 1000
    assert run(losses, since=0.1).seen < 1000
    assert run(np.ones(1000), since=0.8).seen == 1000


def test_nought_never_ends_a_training_and_few_steps_say_nothing():
    assert run(np.ones(1000), share=0).seen == 1000
    assert run(np.ones(patience.LEAST), share=0.1, since=0).seen == patience.LEAST


def test_what_it_knows_goes_round():
    losses = noisy(lambda t: 1 + t)
    whole = run(losses)
    for cut in (1, 150, whole.seen - 1, whole.seen):
        first, second = run(losses[:cut], steps=1000), Patience(1000, 0.3, 0.2)
        second.restore(first.state())
        for loss in losses[cut:]:
            if second.over:
                break
            second.see(float(loss))
        assert second == whole
