"""Blue protective film over a rolled cell, without defects: what it is made of, how light falls, what a camera sees."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from models.film_fields import SPAN, Dice, Field, Grid, Vector, blurred, hill, noise


@dataclass
class Scene:
    """A surface before it is lit; defects change it in place.

    albedo: (y, x, 3) share of diffuse light that comes back, as RGB; tilt_y, tilt_x: (y, x) slopes;
    gloss: (y, x) share of mirrored light; shade: (y, x) share of light that is not held off;
    outside: (y, x) signed distance in units to where the cell ends, negative on the cell; grid: of the pixels.
    """

    grid: Grid
    albedo: Field
    tilt_y: Field
    tilt_x: Field
    gloss: Field
    shade: Field
    outside: Field

    def lay(self, cover: Field, colour: Field) -> None:
        """Cover the surface with a material: cover (y, x) in [0, 1]; colour (y, x, 3) or (3,)."""
        self.albedo += cover[..., None] * (colour - self.albedo)

    def tilt(self, y: Field, x: Field) -> None:
        """Add slopes."""
        self.tilt_y += y
        self.tilt_x += x


@dataclass(frozen=True)
class Light:
    """A long lamp over the surface.

    towards: (y, x) direction in which the lamp's mirror image runs out; middle: where it lies along that, in units;
    width: of its image in units; power: of the mirrored light; lean: how much a slope changes diffuse light.
    """

    towards: Vector
    middle: float
    width: float
    power: float
    lean: float


def film(dice: Dice, grid: Grid) -> Scene:
    """A good piece of film, from its own dice: tone, rolled structure, waves, wrinkles, seam, dust, the cell's edge."""
    shape = grid.y.shape
    rolling = _rolling(dice)
    blue = dice.uniform(0.5, 0.76)
    tone = blue * np.array([dice.uniform(0.13, 0.27), dice.uniform(0.46, 0.62), 1.0])
    relief = 1.0 + _structure(dice, grid, rolling)
    scene = Scene(
        grid=grid,
        albedo=relief[..., None] * tone,
        tilt_y=np.zeros(shape),
        tilt_x=np.zeros(shape),
        gloss=np.ones(shape),
        shade=np.ones(shape),
        outside=np.full(shape, -1e3),
    )
    _waves(dice, scene)
    for _ in range(dice.count(0, 3)):
        _wrinkle(dice, scene)
    if dice.chance(0.14):
        _seam(dice, scene, rolling)
    _dust(dice, scene)
    if dice.chance(0.2):
        _edge(dice, scene)
    return scene


def _rolling(dice: Dice) -> Vector:
    """The direction of rolling: mostly along the image, as cells lie on their carrier, with some tilt."""
    if dice.chance(0.15):
        return dice.direction()
    tilt = dice.uniform(-0.09, 0.09)
    long = sqrt(1.0 + tilt * tilt)
    return (1.0 / long, tilt / long) if dice.chance(0.4) else (tilt / long, 1.0 / long)


def _structure(dice: Dice, grid: Grid, rolling: Vector) -> Field:
    """The brushed metal that shines through, roll marks and cloudy glue: (y, x), relative to 1."""
    along, across = grid.turned(rolling)
    fine = dice.uniform(0.4, 1.2) * noise(
        dice, along / dice.uniform(40, 200), across / dice.uniform(1.0, 2.0)
    )
    middle = dice.uniform(0.3, 1.2) * noise(dice, along / 90.0, across / dice.uniform(3.0, 7.0))
    coarse = dice.uniform(0.3, 1.3) * noise(dice, along / 260.0, across / dice.uniform(12, 30))
    cloud = noise(dice, grid.y / 58.0, grid.x / 58.0) + 0.5 * noise(dice, grid.y / 23.0, grid.x / 23.0)
    marks = dice.uniform(0.006, 0.036) * (fine + middle + coarse) + dice.uniform(0.01, 0.04) * cloud
    for _ in range(dice.count(0, 3)):
        line = hill((across - dice.uniform(-100, 100)) / dice.uniform(0.6, 1.6))
        marks = marks + dice.uniform(-0.06, 0.06) * line
    return marks


def _waves(dice: Dice, scene: Scene) -> None:
    """Film is never flat: wide waves, and the fine skin that is called orange peel."""
    grid = scene.grid
    for size, most in (
        (dice.uniform(50, 110), 0.4),
        (dice.uniform(18, 30), 0.12),
        (dice.uniform(3.5, 6), 0.09),
    ):
        height = dice.uniform(0.3, 1.0) * most
        u, v = grid.y / size, grid.x / size
        scene.tilt(height * noise(dice, u, v), height * noise(dice, u, v))


def _wrinkle(dice: Dice, scene: Scene) -> None:
    """A soft ridge or valley that bows through the image and runs out."""
    grid, heading = scene.grid, dice.direction()
    origin = (dice.uniform(0, SPAN), dice.uniform(0, SPAN))
    along, across = grid.turned(heading, origin)
    across = (
        across
        + dice.uniform(-0.002, 0.002) * along * along
        + 3.0 * noise(dice, along / 45.0, np.zeros_like(along))
    )
    width, reach = dice.uniform(3.5, 12.0), dice.uniform(30.0, 160.0)
    fade = hill(along / reach)
    push = dice.uniform(0.4, 1.6) * (1.0 if dice.chance(0.5) else -1.0)
    flank = push * fade * (across / width) * hill(across / width)
    scene.tilt(-heading[1] * flank, heading[0] * flank)


def _seam(dice: Dice, scene: Scene, rolling: Vector) -> None:
    """Where one layer of film ends upon another: a step of tone and a thin line of light."""
    across = scene.grid.turned(rolling)[1] - dice.uniform(-85, 85)
    upper = scene.grid.cover(across)
    scene.albedo *= (1.0 - dice.uniform(0.04, 0.1) * upper)[..., None]
    scene.lay(dice.uniform(0.1, 0.3) * hill(across / 0.9), np.array([0.5, 0.62, 0.85]))


def _dust(dice: Dice, scene: Scene) -> None:
    """Specks of a pixel or two: too small to be a defect."""
    for _ in range(dice.count(2, 22)):
        centre = (dice.uniform(0, SPAN), dice.uniform(0, SPAN))
        speck = dice.uniform(0.3, 0.9) * scene.grid.cover(scene.grid.radius(centre) - dice.uniform(0.3, 1.1))
        scene.lay(speck, np.array(dice.pick(((0.75, 0.8, 0.9), (0.05, 0.08, 0.2), (0.4, 0.5, 0.75)))))


def _edge(dice: Dice, scene: Scene) -> None:
    """The cell ends inside the picture: the film bends down over its edge, beyond it lies the dark carrier."""
    grid, inward = scene.grid, dice.pick(((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)))
    lean = dice.uniform(-0.04, 0.04)
    along, across = grid.turned(inward)
    outside = dice.uniform(8, 34) - 100.0 - along + lean * across
    bend = np.clip(1.0 + outside / dice.uniform(4, 10), 0.0, 1.0)
    strength = dice.uniform(0.8, 2.0)
    scene.tilt(-strength * inward[0] * bend * bend, -strength * inward[1] * bend * bend)
    scene.shade *= 1.0 - 0.35 * bend * bend
    beyond = grid.cover(-outside)
    dark = np.array([0.05, 0.055, 0.07]) * dice.uniform(0.6, 4.5)
    carrier = (1.0 + 0.12 * noise(dice, grid.y / 9.0, grid.x / 9.0))[..., None] * dark
    scene.lay(beyond, carrier)
    scene.gloss *= 1.0 - beyond
    scene.outside = outside


def lamp(dice: Dice) -> Light:
    """How this image is lit."""
    return Light(
        towards=dice.direction(),
        middle=dice.uniform(-130, 130),
        width=dice.uniform(45, 110),
        power=dice.uniform(0.12, 0.42),
        lean=dice.uniform(0.1, 0.18),
    )


def lit(scene: Scene, light: Light) -> Field:
    """(y, x, 3) float64 RGB, about [0, 1]."""
    y, x = light.towards
    facing = y * scene.tilt_y + x * scene.tilt_x
    along, _ = scene.grid.turned(light.towards)
    mirrored = hill((along - light.middle) / light.width + 0.55 * facing)
    diffuse = (1.0 + light.lean * facing) * scene.shade
    gleam = light.power * scene.gloss * mirrored
    return np.asarray(diffuse[..., None] * scene.albedo + gleam[..., None] * np.array([0.62, 0.8, 1.0]))


def camera(dice: Dice, radiance: Field, grid: Grid) -> NDArray[np.uint8]:
    """Lens and sensor: vignetting, focus, exposure, white balance, noise; (y, x, 3) uint8."""
    far = grid.radius((dice.uniform(85, 115), dice.uniform(85, 115))) / 141.0
    seen = radiance * (1.0 - dice.uniform(0.05, 0.35) * far * far)[..., None]
    focus = dice.uniform(0.0, 0.8)
    seen = seen + focus * (blurred(seen, 1) - seen)
    balance = np.array([dice.uniform(0.94, 1.06), 1.0, dice.uniform(0.94, 1.06)])
    seen = np.maximum(dice.uniform(0.8, 1.2) * balance * seen, 0.0)
    read, shot = dice.uniform(0.003, 0.008), dice.uniform(0.006, 0.014)
    grain = dice.bell(seen.shape)
    common = dice.bell(grid.y.shape)[..., None]
    noisy = seen + (read + shot * np.sqrt(seen)) * (0.75 * grain + 0.6 * common)
    return np.floor(np.clip(noisy, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
