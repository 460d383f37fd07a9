"""The four defects of the blue-film set: each changes a scene in place and tells the exact outline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np

from models.film_fields import SPAN, Dice, Field, Grid, Vector, blurred, moved, noise, slope
from models.film_shapes import (
    FAR,
    Stroke,
    arc,
    clump,
    crescent,
    oval,
    plate,
    pores,
    ragged,
    splinter,
    stroke,
    tapered,
)
from models.film_surface import Light, Scene

Colour = tuple[float, float, float]
OBJECTS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.06),  # rubber, soot
    (0.24, 0.18, 0.14),  # rust, cardboard
    (0.62, 0.62, 0.6),  # paper, lint
    (0.28, 0.15, 0.14),  # cable
    (0.45, 0.46, 0.48),  # aluminium
    (0.43, 0.38, 0.28),  # adhesive tape, brass
    (0.16, 0.2, 0.19),  # cloth
)
FOAMS: tuple[Colour, ...] = ((0.74, 0.76, 0.77), (0.4, 0.43, 0.48), (0.13, 0.14, 0.17), (0.36, 0.5, 0.68))


def _place(dice: Dice, scene: Scene, margin: float) -> Vector:
    """A point on the cell, `margin` units or more from where it ends."""
    side = scene.outside.shape[0]
    while True:
        y, x = dice.uniform(0.06, 0.94), dice.uniform(0.06, 0.94)
        if scene.outside[int(y * side), int(x * side)] < -margin:
            return y * SPAN, x * SPAN


def _turned(heading: Vector, by: Vector, much: float) -> Vector:
    y, x = heading[0] + much * by[0], heading[1] + much * by[1]
    long = max(sqrt(y * y + x * x), 1e-3)
    return y / long, x / long


def _cast(scene: Scene, light: Light, cover: Field, height: float, depth: float) -> None:
    """The shadow that a thing throws beside itself; it is no part of the defect."""
    reach = height / scene.grid.pixel
    down, right = int(np.floor(light.towards[0] * reach + 0.5)), int(np.floor(light.towards[1] * reach + 0.5))
    scene.shade *= 1.0 - depth * blurred(moved(cover, down, right), 2) * (1.0 - cover)


def _fall(outline: Field, grid: Grid) -> tuple[Field, Field]:
    """The direction (y, x) straight out of an outline, of length 1, or less on a ridge."""
    down, right = slope(outline, grid.pixel)
    long = np.maximum(np.sqrt(down * down + right * right), 1.0)
    return down / long, right / long


# -- scratch ----------------------------------------------------------------------------------------------


def scratch(dice: Dice, scene: Scene, light: Light) -> Field:
    """One to three scores of one tool, alike in direction and in look: chafed, cut to the metal, or a groove."""
    heading, look = dice.direction(), dice.pick((_chafed, _chafed, _bared, _grooved, _grooved))
    centre, bow = _place(dice, scene, 10), dice.pick((0.01, 0.04, 0.16))
    length, half = dice.uniform(70, 230), dice.uniform(2.1, 4.3)
    outline = np.full(scene.grid.y.shape, FAR)
    for n in range(dice.pick((1, 1, 2, 2, 3))):
        if n:
            gap, half = dice.uniform(9, 26), half * dice.uniform(0.7, 0.95)
            slip = dice.uniform(-0.2, 0.2) * length
            centre = (
                centre[0] + slip * heading[0] - gap * heading[1],
                centre[1] + slip * heading[1] + gap * heading[0],
            )
        own = length * dice.uniform(0.6, 1.0)
        points = arc(dice, centre, _turned(heading, dice.direction(), 0.05), own, bow)
        line = stroke(scene.grid, points, tapered(dice, len(points), half, dice.uniform(0.3, 0.9)))
        line = replace(line, distance=ragged(dice, scene.grid, line.distance, 0.25, 2.0))
        look(dice, scene, line)
        outline = np.minimum(outline, line.distance)
    return outline


def _streaks(dice: Dice, line: Stroke) -> Field:
    """Lines along a stroke, and places where the tool bore harder; about [−2, 2]."""
    fine = noise(dice, line.along / 40.0, 3.0 * line.across)
    return 0.8 * fine + 0.6 * noise(dice, line.along / 11.0, np.zeros_like(line.along))


def _chafed(dice: Dice, scene: Scene, line: Stroke) -> None:
    much = np.clip(dice.uniform(0.38, 0.62) + 0.1 * _streaks(dice, line), 0.26, 0.9)
    inside = scene.grid.cover(line.distance)
    scene.lay(inside * much, np.array([0.62, 0.74, 0.9]))
    scene.gloss *= 1.0 - 0.6 * inside


def _bared(dice: Dice, scene: Scene, line: Stroke) -> None:
    metal = np.array([0.46, 0.52, 0.57]) * (1.0 + 0.2 * _streaks(dice, line))[..., None]
    inside = scene.grid.cover(line.distance)
    lip = scene.grid.cover(np.abs(line.distance + 0.7) - 0.5)
    scene.lay(inside, metal)
    scene.lay(0.35 * lip, np.array([0.05, 0.12, 0.35]))


def _grooved(dice: Dice, scene: Scene, line: Stroke) -> None:
    inside = scene.grid.cover(line.distance)
    deep = np.clip(dice.uniform(0.36, 0.55) + 0.08 * _streaks(dice, line), 0.25, 0.75)
    scene.albedo *= (1.0 - inside * deep)[..., None]
    scene.gloss *= 1.0 - 0.75 * inside
    down, right = _fall(line.distance, scene.grid)
    wall = 1.6 * inside * np.abs(line.across)
    scene.tilt(wall * down, wall * right)
    lip = 0.5 * scene.grid.cover(np.abs(line.distance + 0.8) - 0.6) * (line.across > 0.0)
    scene.lay(lip, np.array([0.4, 0.55, 0.8]))


# -- foam -------------------------------------------------------------------------------------------------


def foam(dice: Dice, scene: Scene, light: Light) -> Field:
    """Scraps of a foam pad that stick to the film: open cells, bright walls around dark pores."""
    tone = np.array(dice.pick(FOAMS)) * dice.uniform(0.85, 1.1)
    cell, frayed = dice.uniform(2.6, 4.6), dice.uniform(0.5, 1.1)
    outline = np.full(scene.grid.y.shape, FAR)
    for _ in range(dice.pick((1, 1, 1, 2))):
        centre = _place(dice, scene, 18)
        if dice.chance(0.65):
            piece = clump(dice, scene.grid, centre, dice.uniform(12, 23), dice.count(2, 5))
        else:
            half = (dice.uniform(16, 38), dice.uniform(9, 17))
            piece = plate(scene.grid, centre, dice.direction(), half, dice.uniform(2, 8))
        piece = ragged(dice, scene.grid, ragged(dice, scene.grid, piece, 1.6 * frayed, 9.0), frayed, 3.0)
        outline = np.minimum(outline, piece)
    _porous(dice, scene, light, outline, tone, cell)
    return outline


def _porous(dice: Dice, scene: Scene, light: Light, outline: Field, tone: Field, cell: float) -> None:
    inside = scene.grid.cover(outline)
    _cast(scene, light, inside, dice.uniform(2, 4), dice.uniform(0.2, 0.45))
    y, x = scene.grid.y, scene.grid.x
    centre, wall = pores(dice, scene.grid, cell)
    deep = np.clip(0.55 + 0.5 * noise(dice, y / cell, x / cell), 0.0, 1.2)
    hole = deep * np.clip(1.0 - 1.5 * centre, 0.0, 1.0)
    bright = np.clip(1.0 - 3.0 * wall, 0.0, 1.0)
    lumps = 0.1 * noise(dice, y / 11.0, x / 11.0) + 0.06 * noise(dice, y / 1.6, x / 1.6)
    look = 0.86 + dice.uniform(0.1, 0.24) * bright - dice.uniform(0.4, 0.75) * hole + lumps
    scene.lay(inside * dice.uniform(0.85, 1.0), look[..., None] * tone)
    scene.gloss *= 1.0 - 0.95 * inside
    rim = inside * np.clip(1.0 + outline / 4.0, 0.0, 1.0)  # its edge bends down to the film
    down, right = _fall(outline, scene.grid)
    scene.tilt(-0.9 * rim * down, -0.9 * rim * right)


# -- indentation ------------------------------------------------------------------------------------------


def indentation(dice: Dice, scene: Scene, light: Light) -> Field:
    """The film is whole, the metal pressed in: a wall that leans, a floor a little duller. Low visibility."""
    outline = np.full(scene.grid.y.shape, FAR)
    kind, size, heading = dice.count(0, 3), dice.uniform(11, 24), dice.direction()
    for _ in range(dice.pick((1, 1, 2, 2, 3))):
        own, towards = size * dice.uniform(0.75, 1.1), _turned(heading, dice.direction(), 0.3)
        outline = np.minimum(outline, _print(dice, scene.grid, kind, _place(dice, scene, 16), towards, own))
    inside, (down, right) = scene.grid.cover(outline), _fall(outline, scene.grid)
    wall = np.clip(1.0 + outline / dice.uniform(4, 9), 0.0, 1.0)
    lean = dice.uniform(0.9, 1.5) * inside * wall * wall
    scene.tilt(lean * down, lean * right)
    scene.albedo *= (1.0 - inside * dice.uniform(0.07, 0.12))[..., None]
    scene.gloss *= 1.0 - dice.uniform(0.12, 0.26) * inside
    return outline


def _print(dice: Dice, grid: Grid, kind: int, centre: Vector, heading: Vector, size: float) -> Field:
    """What pressed: a ball, a block, the rim of a round thing, or a rod."""
    if kind == 0:
        return oval(grid, centre, heading, size * dice.uniform(1.0, 1.4), size * dice.uniform(0.75, 1.0))
    if kind == 1:
        half = (size * dice.uniform(0.9, 1.5), size * dice.uniform(0.5, 0.8))
        return plate(grid, centre, heading, half, 0.3 * half[1])
    if kind == 2:
        return crescent(grid, centre, heading, 1.4 * size, dice.uniform(0.5, 0.8))
    points = arc(dice, centre, heading, size * dice.uniform(2.2, 4.0), 0.06)
    return stroke(grid, points, np.full(len(points), size * dice.uniform(0.26, 0.42))).distance


# -- foreign object ---------------------------------------------------------------------------------------


def foreign_object(dice: Dice, scene: Scene, light: Light) -> Field:
    """Something that does not belong there: a fibre, a chip, a flake, or crumbs, with a shadow beside it."""
    kind = dice.pick((_fibre, _fibre, _chip, _chip, _flake, _crumbs))
    return kind(dice, scene, light, np.array(dice.pick(OBJECTS)) * dice.uniform(0.85, 1.15))


def _fibre(dice: Dice, scene: Scene, light: Light, tone: Field) -> Field:
    outline = np.full(scene.grid.y.shape, FAR)
    half, height = dice.uniform(1.6, 3.0), dice.uniform(2, 5)
    for _ in range(dice.pick((1, 1, 2))):
        length, centre = dice.uniform(45, 120), _place(dice, scene, 12)
        points = arc(dice, centre, dice.direction(), length, dice.uniform(0.4, 1.1), 36)
        line = stroke(scene.grid, points, np.full(len(points), half))
        inside = scene.grid.cover(line.distance)
        _cast(scene, light, inside, height, 0.3)
        bulge = 1.12 - 0.38 * line.across * line.across + 0.1 * noise(dice, line.along / 6.0, line.across)
        scene.lay(inside, bulge[..., None] * tone)
        scene.gloss *= 1.0 - 0.8 * inside
        outline = np.minimum(outline, line.distance)
    return outline


def _chip(dice: Dice, scene: Scene, light: Light, tone: Field) -> Field:
    outline = np.full(scene.grid.y.shape, FAR)
    for _ in range(dice.pick((1, 1, 2))):
        centre = _place(dice, scene, 12)
        piece = splinter(dice, scene.grid, centre, dice.uniform(11, 25), dice.count(3, 6))
        piece = ragged(dice, scene.grid, piece, 0.5, 3.5)
        _solid(dice, scene, light, piece, centre, tone)
        outline = np.minimum(outline, piece)
    return outline


def _crumbs(dice: Dice, scene: Scene, light: Light, tone: Field) -> Field:
    outline, middle = np.full(scene.grid.y.shape, FAR), _place(dice, scene, 24)
    for _ in range(dice.count(4, 9)):
        towards, far = dice.direction(), dice.uniform(3, 30)
        centre = (middle[0] + far * towards[0], middle[1] + far * towards[1])
        piece = splinter(dice, scene.grid, centre, dice.uniform(4.5, 9.0), dice.count(2, 4))
        _solid(dice, scene, light, piece, centre, tone)
        outline = np.minimum(outline, piece)
    return outline


def _solid(dice: Dice, scene: Scene, light: Light, piece: Field, centre: Vector, tone: Field) -> None:
    """A hard body: facets that meet in a ridge, a bright edge, a shadow."""
    inside = scene.grid.cover(piece)
    _cast(scene, light, inside, dice.uniform(2, 5), dice.uniform(0.25, 0.5))
    first, second = dice.direction(), dice.direction()
    ridge = scene.grid.turned(first, centre)[0] + dice.uniform(-4, 4)
    facet = np.where(ridge > 0.0, dice.uniform(0.78, 0.95), dice.uniform(1.0, 1.25))
    grain = 0.1 * noise(dice, scene.grid.y / 1.8, scene.grid.x / 1.8)
    lumps = 0.12 * noise(dice, scene.grid.y / 6.0, scene.grid.x / 6.0)
    fall = 0.01 * scene.grid.turned(second, centre)[0]
    edge = 0.2 * np.clip(1.0 + piece / 1.6, 0.0, 1.0)
    scene.lay(inside, (facet + grain + lumps + fall + edge)[..., None] * tone)
    scene.gloss *= 1.0 - 0.7 * inside


def _flake(dice: Dice, scene: Scene, light: Light, tone: Field) -> Field:
    """A scrap of tape or paper that lies flat and lets some of the film through."""
    centre = _place(dice, scene, 18)
    half = (dice.uniform(18, 38), dice.uniform(10, 20))
    piece = plate(scene.grid, centre, dice.direction(), half, 1.0)
    cut, _ = scene.grid.turned(dice.direction(), centre)
    piece = ragged(dice, scene.grid, np.maximum(piece, cut - dice.uniform(5, 14)), 0.5, 3.0)
    inside = scene.grid.cover(piece)
    _cast(scene, light, inside, 1.5, 0.3)
    crease = scene.grid.turned(dice.direction(), centre)[0]
    look = (
        1.0 + 0.16 * np.clip(crease / 3.0, -1.0, 1.0) + 0.06 * noise(dice, crease / 2.0, scene.grid.x / 9.0)
    )
    scene.lay(inside * dice.uniform(0.75, 0.95), look[..., None] * tone)
    scene.gloss *= 1.0 - 0.5 * inside
    return piece


DEFECTS: dict[str, Callable[[Dice, Scene, Light], Field]] = {
    "foam": foam,
    "foreign_object": foreign_object,
    "indentation": indentation,
    "scratch": scratch,
}
"""By name, in the order of their class indices from 1."""
