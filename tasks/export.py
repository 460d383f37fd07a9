"""Labels as indexed PNGs, under the images' own names and folders."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

CLASSES = "classes.txt"


class ExportError(ValueError):
    """The labels cannot be written as asked; the message says why."""


def palette() -> list[int]:
    """768 numbers, RGB of every index: background black, neighbours far apart in hue, 255 white."""
    colours = [(0.0, 0.0, 0.0)]
    # the golden ratio keeps any number of hues apart; light and strength vary for those who see few hues
    colours += [
        colorsys.hsv_to_rgb(0.58 + n * 0.618034, 0.9 - 0.3 * (n % 2), 1 - 0.25 * (n % 3)) for n in range(254)
    ]
    colours.append((1.0, 1.0, 1.0))
    return [round(255 * value) for colour in colours for value in colour]


def label_png(label: np.ndarray, path: Path) -> None:
    """Write a label map as an indexed PNG, whole or not at all.

    label: (y, x) uint8, 0 background, k a class, 255 unknown.
    """
    image = Image.fromarray(np.ascontiguousarray(label))
    image.putpalette(palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    image.save(partial, format="PNG")
    partial.replace(path)


def label_path(out: Path, images: Sequence[str]) -> dict[str, Path]:
    """Where each image's label goes: its own folder and name, ending in .png.

    images: paths relative to the image folder. Raises ExportError where two would get the same file.
    """
    taken: dict[Path, str] = {}
    for image in images:
        target = out / PurePosixPath(image).with_suffix(".png")
        if target in taken:
            raise ExportError(f"{taken[target]} and {image} would both become {target}; rename one of them")
        taken[target] = image
    return {image: target for target, image in taken.items()}


def write_classes(out: Path, names: Sequence[str]) -> None:
    """Write classes.txt: line k is class k. Raises ExportError for a name that would break the line."""
    for name in names:
        if len(name.splitlines()) != 1:
            raise ExportError(f"class {name!r} holds a line break; rename its folder or label")
    out.mkdir(parents=True, exist_ok=True)
    (out / CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
