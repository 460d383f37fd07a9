"""What the blue-film set is drawn with: dice, noise, coordinates, edges. The same bits on every machine.

Only operations whose result IEEE 754 fixes to the last bit are used on float64: + - * / sqrt, floor, comparisons,
minimum and maximum, one array operation at a time. So there is no exp, power, sine, sum over an axis, matrix product
or OpenCV call here, and in nothing that builds on this file. The random bits are PCG64's raw output, seeded by
SeedSequence, both of which NumPy keeps as they are. What remains: a machine whose double is not IEEE 754's, or a
NumPy that fuses a product and a sum across calls; none is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Vector = tuple[float, float]
Item = TypeVar("Item")

SPAN = 200.0
"""Length units along an image's side, whatever its pixels: shapes are given in them."""
SPREAD = 37837.22720482409
"""Standard deviation of the sum of four uniform 16-bit numbers: sqrt(4 (65536² − 1) / 12)."""


class Dice:
    """Random numbers from a key; the same key gives the same numbers."""

    def __init__(self, *key: int) -> None:
        """key: non-negative whole numbers, such as seed, class and place."""
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) / 9007199254740992.0)

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.uniform() < share

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.uniform(0, high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of them."""
        return items[self.count(0, len(items) - 1)]

    def direction(self) -> Vector:
        """(y, x) of a unit vector, all directions alike."""
        while True:
            y, x = self.uniform(-1, 1), self.uniform(-1, 1)
            if 0.01 < (square := y * y + x * x) < 1:
                return y / sqrt(square), x / sqrt(square)

    def bell(self, shape: tuple[int, ...]) -> Field:
        """Nearly Gaussian numbers of mean 0 and deviation 1: four uniform ones of 16 bits summed in integers."""
        size = 1
        for extent in shape:
            size *= extent
        raw = self._bits.random_raw(size).astype(np.uint64)
        low = np.uint64(65535)
        parts = [((raw >> np.uint64(shift)) & low).astype(np.int64) for shift in (0, 16, 32, 48)]
        total = parts[0] + parts[1] + parts[2] + parts[3] - 131070
        return np.asarray(total.reshape(shape) / SPREAD, np.float64)


@dataclass(frozen=True)
class Grid:
    """Where the pixels' centres lie.

    y, x: (y, x) float64 in units of 1/200 of the side; pixel: units that one pixel is wide.
    """

    y: Field
    x: Field
    pixel: float

    @staticmethod
    def of(side: int) -> Grid:
        """The grid of a square image of `side` pixels."""
        step = SPAN / side
        line = (np.arange(side, dtype=np.float64) + 0.5) * step
        return Grid(np.repeat(line[:, None], side, 1), np.repeat(line[None], side, 0), step)

    def turned(self, heading: Vector, origin: Vector = (100.0, 100.0)) -> tuple[Field, Field]:
        """Coordinates (along, across) a unit vector `heading` = (y, x), 0 at `origin`."""
        y, x = self.y - origin[0], self.x - origin[1]
        return heading[0] * y + heading[1] * x, heading[0] * x - heading[1] * y

    def radius(self, centre: Vector) -> Field:
        """Distance from a point."""
        y, x = self.y - centre[0], self.x - centre[1]
        return np.asarray(np.sqrt(y * y + x * x), np.float64)

    def cover(self, distance: Field) -> Field:
        """Share of each pixel that lies inside, from the signed distance to an outline, negative inside."""
        return np.clip(0.5 - distance / self.pixel, 0.0, 1.0)


def noise(dice: Dice, u: Field, v: Field) -> Field:
    """Smooth noise of mean about 0 and deviation about 1: a random lattice under a quadratic B-spline.

    u, v: coordinates in lattice cells, of any shape. Returns the values there.
    """
    row, column = np.floor(u), np.floor(v)
    top, left = float(row.min()), float(column.min())
    nodes = dice.bell((int(row.max() - top) + 3, int(column.max() - left) + 3))
    place = ((row - top) * nodes.shape[1] + (column - left)).astype(np.int64)
    by_row, by_column = _spline(u - row), _spline(v - column)
    total = np.zeros_like(u)
    for a in range(3):
        line = np.zeros_like(u)
        for b in range(3):
            line += by_column[b] * nodes.ravel().take(place + (a * nodes.shape[1] + b))
        total += by_row[a] * line
    return total / 0.55  # the spline's own deviation


def _spline(t: Field) -> tuple[Field, Field, Field]:
    rest = 1.0 - t
    return 0.5 * rest * rest, 0.5 + t * rest, 0.5 * t * t


def hill(t: Field) -> Field:
    """A bell without tails that matter: 1 at 0, 1/4 at ±1, towards 0 outwards."""
    wide = 1.0 + t * t
    return 1.0 / (wide * wide)


def slope(field: Field, pixel: float) -> tuple[Field, Field]:
    """Derivatives (along y, along x) by central differences, edges repeated."""
    wide = np.pad(field, 1, mode="edge")
    step = 2.0 * pixel
    return (wide[2:, 1:-1] - wide[:-2, 1:-1]) / step, (wide[1:-1, 2:] - wide[1:-1, :-2]) / step


def blurred(field: Field, times: int) -> Field:
    """Binomial blur of 3 × 3 pixels, repeated; each time adds half a pixel² of variance. (y, x, ...)."""
    for _ in range(times):
        for axis in (0, 1):
            edge = [(1, 1) if a == axis else (0, 0) for a in range(field.ndim)]
            wide = np.moveaxis(np.pad(field, edge, mode="edge"), axis, 0)
            soft = 0.25 * wide[:-2] + 0.5 * wide[1:-1] + 0.25 * wide[2:]
            field = np.moveaxis(soft, 0, axis)
    return field


def moved(field: Field, down: int, right: int) -> Field:
    """A field pushed by whole pixels, edges repeated."""
    margin = max(abs(down), abs(right))
    wide = np.pad(field, margin, mode="edge")
    height, width = field.shape
    return wide[margin - down : margin - down + height, margin - right : margin - right + width]
