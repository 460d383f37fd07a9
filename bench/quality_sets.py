"""The image sets of `bench.quality`: where they are, a subset of them, and points upon their defects."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from flows.config import NORMAL
from storage.pixels import read_label_map
from tasks.evaluate import find_masks

ROOT = Path(__file__).resolve().parent.parent
SETS = ("bluefilm", "sd900", "magnetic_tile")
CONFIGS = {"sd900": "configs/sd900.yaml", "magnetic_tile": "configs/magnetic_tile.yaml"}
"""Of the sets that have one; the others run with the defaults."""
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class NoSetError(RuntimeError):
    """A set is not there; the message says how to get it."""


@dataclass(frozen=True)
class ImageSet:
    """A folder of images by class, and one of label PNGs of the same names, for scoring alone."""

    name: str
    images: Path
    masks: Path

    @cached_property
    def paths(self) -> list[str]:
        """Of all images, relative to their folder, in order."""
        found = (path for path in self.images.rglob("*") if path.suffix.lower() in ENDINGS)
        return sorted(path.relative_to(self.images).as_posix() for path in found)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the values 1, 2, … in the masks.

        From the `classes.txt` in the image folder or beside it, else the folders of defects in alphabetical order.
        """
        for folder in (self.images, self.images.parent):
            if (folder / "classes.txt").is_file():
                return (folder / "classes.txt").read_text(encoding="utf-8").split()
        return sorted({path.split("/")[0] for path in self.paths} - set(NORMAL))

    @cached_property
    def digest(self) -> str:
        """Of all images and masks, by name and content."""
        total = hashlib.sha256()
        truth = find_masks(self.masks, self.paths)
        for name in self.paths:
            for path in (self.images / name, truth[name]):
                total.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()[:32]


def locate(name: str, *, data: Path, bluefilm: Path | None, out: Path, console: Console) -> ImageSet:
    """A set by its name.

    data: the folder of the real sets; bluefilm: where the drawn one is, None draws it below `out`.
    Raises NoSetError with the remedy where it cannot be had.
    """
    folder = (bluefilm or _drawn(out / "drawn-bluefilm", console)) if name == "bluefilm" else data / name
    found = ImageSet(name, folder / "images", folder / "masks")
    if not found.images.is_dir() or not found.masks.is_dir() or not found.paths:
        raise NoSetError(f"{name}: {folder} holds no images/ and masks/")
    return found


def _drawn(folder: Path, console: Console) -> Path:
    """The blue-film set, drawn once by the command line's own `synth`."""
    import bluemask

    commands = {
        info.name or getattr(info.callback, "__name__", "") for info in bluemask.app.registered_commands
    }
    if "synth" not in commands:
        raise NoSetError(
            "bluefilm: this bluemask has no command `synth` to draw it with; name a folder with images/ and masks/ "
            "by --bluefilm"
        )
    if not (folder / "images").is_dir():
        console.print(f"bluefilm: drawing it into {folder}")
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [sys.executable, str(ROOT / "bluemask.py"), "synth", str(partial)]
        if status := subprocess.run(command, check=False).returncode:
            raise NoSetError(f"bluefilm: `bluemask synth` ended with status {status}; it has said why")
        partial.rename(folder)
    return folder


def subset(whole: ImageSet, count: int | None, folder: Path) -> ImageSet:
    """About `count` images, every k-th of each class, at least one a class; the masks are not looked at.

    folder: where the chosen images are linked or copied to, as a set of its own; None takes the whole set.
    """
    if count is None or count >= len(whole.paths):
        return whole
    chosen = thinned(whole.paths, count)
    found = replace(whole, name=f"{whole.name}-{count}", images=folder / "images")
    for name in chosen:
        path = found.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copyfile(whole.images / name, path.with_suffix(".partial"))
            os.replace(path.with_suffix(".partial"), path)
    (folder / "classes.txt").write_text("\n".join(whole.classes) + "\n", encoding="utf-8")
    if found.paths != chosen:
        raise NoSetError(f"{folder} holds other images than every k-th of {whole.images}; remove it")
    return found


def thinned(paths: Sequence[str], count: int) -> list[str]:
    """Every k-th path of each folder, evenly spread, so that about `count` are left, one a folder at least."""
    by_folder: dict[str, list[str]] = {}
    for path in sorted(paths):
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    chosen = []
    for members in by_folder.values():
        wanted = max(1, round(count * len(members) / len(paths)))
        chosen += [members[n * len(members) // wanted] for n in range(wanted)]
    return sorted(chosen)


def write_points(images: ImageSet, seed: int, path: Path) -> int:
    """Write one random interior point of every piece of every mask, as a user might have marked it.

    A piece is a connected part of one class, corners included; its interior is what is left after its border of one
    pixel is taken away, or the whole piece where nothing is. path: the CSV `image,x,y,label`. Returns the number of
    points. This is the only place that turns masks into input, and only the rows that say so use it.
    """
    truth = find_masks(images.masks, images.paths)
    rows = []
    for name in images.paths:
        mask = read_label_map(truth[name])
        rng = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
        for k, label in enumerate(images.classes, start=1):
            rows += [[name, x, y, label] for x, y in interior_points(mask == k, rng)]
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "x", "y", "label"], *rows])
    partial.replace(path)
    return len(rows)


def interior_points(region: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """One random point x, y in each connected piece of a (y, x) bool region, away from its border if it can be."""
    count, pieces = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    inner = cv2.erode(region.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    points = []
    for piece in range(1, count):
        here = pieces == piece
        y, x = np.nonzero(here & inner if (here & inner).any() else here)
        chosen = int(rng.integers(len(y)))
        points.append((int(x[chosen]), int(y[chosen])))
    return points
