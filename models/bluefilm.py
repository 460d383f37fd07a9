"""The blue-film set: film on a battery cell with scratch, foam, indentation and foreign object, and good film.

Nothing here is shared with the surfaces that the embedded weights are trained on (models/surfaces.py): neither
textures nor outlines nor light. An image depends on the seed, its class, its number and its side alone, so a smaller
set is the beginning of a larger one. models/film_fields.py says why the pixels are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.film_defects import DEFECTS
from models.film_fields import Dice, Grid
from models.film_surface import camera, film, lamp, lit

CLASSES = tuple(sorted(DEFECTS))
"""The defects, class 1 first, in the order that a folder per class gives."""
GOOD = "good"
FOLDERS = tuple(sorted((*CLASSES, GOOD)))
"""All folders of the set in alphabetical order: the order in which it is drawn and digested."""
COUNT, SIDE = 300, 200
"""Of the set as it is measured: images a class, as in the paper; pixels a side."""
DIGEST = "c57a1a7f501f085f87bc058e683ce397d6fe599579035685c15cd1dd15e0ca1d"
"""sha256 of the set as it is measured, seed 0: what `digest` gives for all of its pictures."""
SMALLEST_SHARE = 0.004
"""Of the image that a defect covers at least."""
SMALLEST_SIDE = 64


@dataclass(frozen=True)
class Picture:
    """One image of the set.

    image: (y, x, 3) uint8 RGB; mask: (y, x) uint8 label map, 0 background, else the place in CLASSES from 1.
    """

    name: str
    number: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def draw(name: str, number: int, *, seed: int = 0, side: int = SIDE) -> Picture:
    """Draw one image; the same arguments give the same pixels.

    name: one of FOLDERS; number: from 0, its place in the class; seed: of the set, not negative; side: pixels.
    Raises ValueError for any other value, RuntimeError where a hundred attempts show hardly anything of the defect.
    """
    _check(name, number, seed, side)
    key = (seed, FOLDERS.index(name), number)
    grid = Grid.of(side)
    light = lamp(Dice(*key, 0))
    for attempt in range(100):  # until enough of a defect lies in the image: once, mostly
        scene = film(Dice(*key, 1), grid)
        mask = np.zeros(grid.y.shape, np.uint8)
        if name in DEFECTS:
            outline = DEFECTS[name](Dice(*key, 3, attempt), scene, light)
            mask[(outline < 0.0) & (scene.outside < 0.0)] = CLASSES.index(name) + 1
        if name == GOOD or int(np.count_nonzero(mask)) >= SMALLEST_SHARE * mask.size:
            break
    else:
        raise RuntimeError(
            f"{name} {number} of seed {seed}: no defect can be seen at {side} pixels; take another seed or side"
        )
    return Picture(name, number, camera(Dice(*key, 2), lit(scene, light), grid), mask)


def _check(name: str, number: int, seed: int, side: int) -> None:
    if name not in FOLDERS:
        raise ValueError(f"{name!r} is no class of the blue-film set; choose one of {', '.join(FOLDERS)}")
    if number < 0 or seed < 0:
        raise ValueError(f"number {number} and seed {seed}: both must be 0 or more")
    if side < SMALLEST_SIDE:
        raise ValueError(
            f"side is {side} pixels; give {SMALLEST_SIDE} or more, or nobody could see the defects"
        )


def pictures(count: int = COUNT, *, seed: int = 0, side: int = SIDE) -> Iterator[Picture]:
    """The whole set, class by class; count: images of each, good ones included."""
    for name in FOLDERS:
        for number in range(count):
            yield draw(name, number, seed=seed, side=side)


def digest(found: Iterable[Picture]) -> str:
    """sha256 of the pixels, each image followed by its mask, in the order given; as `bluemask synth` prints it."""
    total = hashlib.sha256()
    for picture in found:
        total.update(picture.image.tobytes())
        total.update(picture.mask.tobytes())
    return total.hexdigest()
