"""Outlines for the blue-film set, as signed distances in length units: negative inside."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from models.film_fields import Dice, Field, Grid, Vector, noise, slope

FAR = 1e6
"""A distance that lies outside of everything."""


@dataclass(frozen=True)
class Stroke:
    """A curve with a width that changes along it.

    distance: signed, to its outline; along: arc length of the nearest point; across: offset from the middle line,
    1 at the outline on one side and −1 on the other; length: of the whole.
    """

    distance: Field
    along: Field
    across: Field
    length: float


def arc(dice: Dice, middle: Vector, heading: Vector, length: float, bow: float, steps: int = 28) -> Field:
    """Points of a cubic Bézier curve, (step, 2) as (y, x).

    bow: how far its inner control points leave the chord, as a share of the length.
    """
    y, x = heading
    ends = []
    for place in (-0.5, -0.17, 0.17, 0.5):
        aside = dice.uniform(-bow, bow) if abs(place) < 0.4 else 0.0
        ends.append(
            (middle[0] + length * (place * y + aside * x), middle[1] + length * (place * x - aside * y))
        )
    t = (np.arange(steps) / (steps - 1.0))[:, None]
    rest = 1.0 - t
    a, b, c, d = (np.array([end]) for end in ends)
    return np.asarray(
        rest * rest * rest * a + 3.0 * rest * rest * t * b + 3.0 * rest * t * t * c + t * t * t * d
    )


def stroke(grid: Grid, points: Field, halves: Field) -> Stroke:
    """A curve drawn with a pen.

    points: (step, 2) as (y, x); halves: (step,) half its width at each point, above 0.
    """
    near = _around(grid, points, float(halves.max()) + 8.0)
    part = Grid(grid.y[near], grid.x[near], grid.pixel)
    best = np.full(part.y.shape, FAR)
    along, across = np.zeros_like(best), np.zeros_like(best)
    reached = 0.0
    for n in range(len(points) - 1):
        (y0, x0), (y1, x1) = points[n].tolist(), points[n + 1].tolist()
        dy, dx = y1 - y0, x1 - x0
        long = max(sqrt(dy * dy + dx * dx), 1e-6)
        y, x = part.y - y0, part.x - x0
        t = np.clip((y * dy + x * dx) / (long * long), 0.0, 1.0)
        off_y, off_x = y - t * dy, x - t * dx
        half = float(halves[n]) + t * (float(halves[n + 1]) - float(halves[n]))
        distance = np.sqrt(off_y * off_y + off_x * off_x) - half
        nearer = distance < best
        best = np.where(nearer, distance, best)
        along = np.where(nearer, reached + t * long, along)
        across = np.where(nearer, (y * dx - x * dy) / (long * half), across)
        reached += long
    return Stroke(
        distance=_within(grid, near, best, FAR),
        along=_within(grid, near, along, 0.0),
        across=_within(grid, near, np.clip(across, -1.0, 1.0), 0.0),
        length=reached,
    )


def _within(grid: Grid, near: tuple[slice, slice], part: Field, beyond: float) -> Field:
    whole = np.full(grid.y.shape, beyond)
    whole[near] = part
    return whole


def _around(grid: Grid, points: Field, margin: float) -> tuple[slice, slice]:
    """The part of the image within `margin` units of some points: what is further off need not be exact."""
    low, high = (points.min(0) - margin) / grid.pixel, (points.max(0) + margin) / grid.pixel
    side = grid.y.shape[0]
    (top, left), (bottom, right) = (
        np.clip(np.floor(edge), 0, side).astype(int).tolist() for edge in (low, high)
    )
    return slice(top, bottom), slice(left, right)


def tapered(dice: Dice, steps: int, half: float, blunt: float) -> Field:
    """Half-widths along a stroke that runs out at both ends; blunt: share of the length that is not tapered."""
    t = np.arange(steps) / (steps - 1.0)
    ends = np.minimum(1.0, np.minimum(t, 1.0 - t) / (0.5 * (1.001 - blunt)))
    unsteady = (
        1.0 + 0.1 * noise(dice, t * 4.0, np.zeros(steps)) + 0.06 * noise(dice, t * 17.0, np.zeros(steps))
    )
    return np.asarray(np.maximum(half * (0.3 + 0.7 * ends * (2.0 - ends)) * unsteady, 0.3 * half))


def oval(grid: Grid, centre: Vector, heading: Vector, long: float, wide: float) -> Field:
    """An ellipse; exact on its outline, nearly so close to it."""
    u, v = grid.turned(heading, centre)
    ratio = np.sqrt(u * u / (long * long) + v * v / (wide * wide))
    bend = np.sqrt(u * u / (long * long * long * long) + v * v / (wide * wide * wide * wide)) + 1e-6
    return np.asarray(ratio * (ratio - 1.0) / bend)


def plate(grid: Grid, centre: Vector, heading: Vector, half: Vector, corner: float) -> Field:
    """A rectangle with round corners; half: half its sides along and across."""
    u, v = grid.turned(heading, centre)
    u, v = np.abs(u) - (half[0] - corner), np.abs(v) - (half[1] - corner)
    far_u, far_v = np.maximum(u, 0.0), np.maximum(v, 0.0)
    outside = np.sqrt(far_u * far_u + far_v * far_v)
    return np.asarray(outside + np.minimum(np.maximum(u, v), 0.0) - corner)


def splinter(dice: Dice, grid: Grid, centre: Vector, radius: float, cuts: int) -> Field:
    """A convex chip: an oval from which straight cuts take pieces."""
    distance = oval(grid, centre, dice.direction(), radius * dice.uniform(1.0, 1.5), radius)
    for _ in range(cuts):
        normal = dice.direction()
        along, _ = grid.turned(normal, centre)
        distance = np.maximum(distance, along - radius * dice.uniform(0.45, 0.9))
    return distance


def crescent(grid: Grid, centre: Vector, heading: Vector, radius: float, bite: float) -> Field:
    """A disc without a shifted disc; bite: shift of the second as a share of the radius."""
    other = (centre[0] + heading[0] * bite * radius, centre[1] + heading[1] * bite * radius)
    return np.maximum(grid.radius(centre) - radius, 0.96 * radius - grid.radius(other))


def clump(dice: Dice, grid: Grid, centre: Vector, radius: float, lobes: int) -> Field:
    """Lobes that grew together, in a chain that wanders from the centre."""
    distance = np.full(grid.y.shape, FAR)
    heading, place = dice.direction(), centre
    for _ in range(lobes):
        own = radius * dice.uniform(0.5, 1.0)
        distance = _melted(distance, grid.radius(place) - own, 0.35 * radius)
        step, turn = own * dice.uniform(0.6, 1.1), dice.direction()
        y, x = heading[0] + 0.8 * turn[0], heading[1] + 0.8 * turn[1]
        size = max(sqrt(y * y + x * x), 0.1)
        place = (place[0] + step * y / size, place[1] + step * x / size)
    return distance


def _melted(one: Field, two: Field, radius: float) -> Field:
    """The smaller of two distances, with a fillet where they meet."""
    overlap = np.maximum(radius - np.abs(one - two), 0.0) / radius
    return np.minimum(one, two) - 0.25 * radius * overlap * overlap


def ragged(dice: Dice, grid: Grid, distance: Field, depth: float, cell: float) -> Field:
    """An outline frayed by up to about twice `depth` units, in teeth of `cell` units; still a distance near it."""
    frayed = distance + depth * noise(dice, grid.y / cell, grid.x / cell)
    down, right = slope(frayed, grid.pixel)
    return np.asarray(frayed / np.clip(np.sqrt(down * down + right * right), 0.5, 2.0))


def pores(dice: Dice, grid: Grid, cell: float) -> tuple[Field, Field]:
    """Cells around scattered points: (distance to the nearest, and to the second less that), in cells."""
    u, v = grid.y / cell, grid.x / cell
    row, column = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    shape = (int(row.max()) + 3, int(column.max()) + 3)
    first, second = np.full(u.shape, 9.0), np.full(u.shape, 9.0)
    shift = [0.28 * dice.bell(shape) + 0.5 for _ in range(2)]
    for a in range(3):
        for b in range(3):
            i, j = row + a, column + b
            y, x = u - (i - 1.0 + shift[0][i, j]), v - (j - 1.0 + shift[1][i, j])
            far = np.sqrt(y * y + x * x)
            second = np.minimum(second, np.maximum(first, far))
            first = np.minimum(first, far)
    return first, second - first
