import numpy as np
import pytest

from models.click_baselines import BASELINES


def disc(side=60):
    rng = np.random.default_rng(0)
    y, x = np.indices((side, side))
    mask = np.hypot(y - 25, x - 33) < 12
    grey = np.clip(np.where(mask, 60, 180) + rng.normal(0, 4, mask.shape), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2), mask


@pytest.mark.parametrize("name", BASELINES)
def test_a_click_on_a_plain_disc_finds_it(name):
    image, mask = disc()
    found = BASELINES[name](image, np.float32([[33, 25]]))
    assert (found & mask).sum() / (found | mask).sum() > 0.9


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_clicks_give_the_same_mask(name):
    image, _ = disc()
    first, again = (BASELINES[name](image, np.float32([[30, 20], [36, 29]])) for _ in range(2))
    np.testing.assert_array_equal(first, again)
