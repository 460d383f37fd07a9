"""Bare surfaces: noise of known moments, direction, light."""

import numpy as np
import pytest

from models.textures import _dark_margin, _streak, bare_surface, fractal, illumination, noise, rotated


def test_noise_has_about_unit_variance_and_the_asked_correlation():
    rng = np.random.default_rng(0)
    field = noise(rng, (256, 256), (16, 16))
    assert field.shape == (256, 256)
    assert 0.5 < field.std() < 1.3
    step = np.abs(np.diff(field, axis=0)).mean()
    assert step < 0.25 * field.std()  # neighbours are alike at a cell of 16 pixels


def test_anisotropic_noise_is_smooth_along_its_long_axis():
    field = noise(np.random.default_rng(1), (128, 128), (64, 1))
    assert np.abs(np.diff(field, axis=0)).mean() < 0.2 * np.abs(np.diff(field, axis=1)).mean()


def test_a_quarter_turn_exchanges_the_axes():
    field = rotated(np.random.default_rng(2), (128, 128), np.pi / 2, (64, 1))
    assert np.abs(np.diff(field, axis=1)).mean() < 0.2 * np.abs(np.diff(field, axis=0)).mean()


def test_fractal_noise_has_about_unit_variance():
    field = fractal(np.random.default_rng(3), (256, 256), 32, 4)
    assert 0.4 < field.std() < 1.5


def test_light_is_positive_and_smooth():
    for seed in range(20):
        light = illumination(np.random.default_rng(seed), (128, 96))
        assert light.min() >= 0.25
        assert light.max() <= 1.8
        assert np.abs(np.diff(light, axis=0)).max() < 0.1


@pytest.mark.parametrize("shape", [(16, 300), (128, 128)])
def test_a_bare_surface_is_finite_and_says_how_rough_it_is(shape):
    grey, roughness = bare_surface(np.random.default_rng(4), shape, 0.4)
    assert grey.shape == shape
    assert np.isfinite(grey).all()
    assert roughness > 0


@pytest.mark.parametrize("side", range(4))
def test_a_margin_darkens_its_own_side_alone(side):
    for seed in range(8):
        grey = np.full((96, 128), 100, np.float32)
        _dark_margin(np.random.default_rng(seed), grey, side)
        dark = np.argwhere(grey < 55)
        assert len(dark)
        far = [dark[:, 0], 95 - dark[:, 0], dark[:, 1], 127 - dark[:, 1]][side]
        assert far.max() < 0.25 * (96, 128)[side // 2]
        assert far.min() == 0


@pytest.mark.parametrize(("angle", "along"), [(0.0, 0), (np.pi / 2, 1)])
def test_streaks_run_along_the_rolling_anywhere(angle, along):
    """Angle 0 runs along y."""
    strongest = []
    for seed in range(30):
        grey = np.full((96, 128), 100, np.float32)
        _streak(np.random.default_rng(seed), grey, angle, 10.0)
        assert np.ptp(grey, axis=along).max() < 1e-2
        assert np.abs(grey - 100).max() < 5 * (6 + 9)
        strongest.append(np.abs(grey - 100).mean(along).argmax() / grey.shape[1 - along])
    assert np.ptp(strongest) > 0.7
