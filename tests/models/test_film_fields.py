"""Dice, noise and outlines of the blue-film set."""

import numpy as np
import pytest

from models.film_fields import Dice, Grid, blurred, hill, moved, noise, slope
from models.film_shapes import arc, clump, crescent, oval, plate, pores, splinter, stroke


def test_dice_follow_their_key():
    assert Dice(1, 2).uniform() == Dice(1, 2).uniform()
    assert Dice(1, 2).uniform() != Dice(2, 1).uniform()


def test_dice_stay_in_range():
    dice = Dice(0)
    assert all(3 <= dice.uniform(3, 4) < 4 for _ in range(200))
    assert {dice.count(2, 4) for _ in range(200)} == {2, 3, 4}
    assert {dice.pick("ab") for _ in range(50)} == {"a", "b"}
    assert all(abs(y * y + x * x - 1) < 1e-12 for y, x in (dice.direction() for _ in range(50)))


def test_bell_and_noise_have_mean_0_and_deviation_1():
    values = Dice(5).bell((200, 200))
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    grid = Grid.of(200)
    field = noise(Dice(5), grid.y / 2, grid.x / 2)
    assert abs(field.mean()) < 0.1
    assert abs(field.std() - 1) < 0.1


def test_noise_is_smooth_at_its_lattice():
    line = np.linspace(0, 6, 6001)
    field = noise(Dice(3), line, np.zeros_like(line))
    assert np.abs(np.diff(field)).max() < 0.02


def test_a_grid_has_the_same_extent_whatever_its_pixels():
    assert Grid.of(50).x.mean() == pytest.approx(100)
    assert Grid.of(400).x.mean() == pytest.approx(100)
    assert Grid.of(50).pixel == 4


def test_small_operations():
    assert hill(np.array([0.0, 1.0])).tolist() == [1, 0.25]
    ramp = np.repeat(np.arange(5.0)[:, None], 5, 1)
    down, right = slope(ramp, 1.0)
    assert down[2, 2] == 1
    assert not right.any()
    assert blurred(ramp, 3)[2, 2] == 2
    spot = np.zeros((5, 5))
    spot[1, 2] = 1
    assert moved(spot, 2, -1)[3, 1] == 1


@pytest.mark.parametrize(
    "shape",
    [
        lambda grid: oval(grid, (100, 100), (0.6, 0.8), 50, 25),
        lambda grid: plate(grid, (100, 100), (0.6, 0.8), (40, 20), 5),
        lambda grid: crescent(grid, (100, 100), (0, 1), 40, 0.6),
        lambda grid: clump(Dice(2), grid, (100, 100), 20, 4),
        lambda grid: splinter(Dice(2), grid, (100, 100), 30, 4),
        lambda grid: stroke(grid, arc(Dice(2), (100, 100), (0, 1), 120, 0.2), np.full(28, 6.0)).distance,
    ],
)
def test_outlines_are_distances_where_they_are_crossed(shape):
    grid = Grid.of(200)
    distance = shape(grid)
    assert 0.01 < (distance < 0).mean() < 0.3
    down, right = slope(distance, grid.pixel)
    steep = np.sqrt(down**2 + right**2)[np.abs(distance) < 1.5]
    assert abs(np.median(steep) - 1) < 0.1


def test_a_straight_stroke_is_a_capsule():
    grid = Grid.of(100)
    points = np.stack([np.full(9, 100.0), np.linspace(50, 150, 9)], 1)
    line = stroke(grid, points, np.full(9, 4.0))
    assert line.length == pytest.approx(100)
    assert (line.distance < 0).sum() * 4 == pytest.approx(8 * 100 + np.pi * 16, rel=0.05)
    assert line.along[50, 50] == pytest.approx(51)
    assert (line.across[49, 50] > 0) != (line.across[50, 50] > 0)


def test_pores_are_near_a_point_or_between_two():
    first, gap = pores(Dice(1), Grid.of(100), 8.0)
    assert first.min() < 0.2
    assert gap.min() < 0.05
    assert (gap >= 0).all()
