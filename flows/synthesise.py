"""`bluemask synth`: the blue-film set on disk, a folder per class with exact masks beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory

import cv2
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from flows.config import ConfigError
from models.bluefilm import COUNT, DIGEST, FOLDERS, SIDE, Picture, digest, draw
from tasks.export import label_png

IMAGES, MASKS = "images", "masks"
"""Folders of the set: images a folder per class, label PNGs under the same names."""


def synthesise(folder: Path, *, count: int, seed: int, side: int) -> int:
    """Draw the set, say what it is and what to do with it. Returns the exit status: 1 where its digest is not right.

    folder: new or empty; count: images a class, from 1; seed: from 0; side: pixels. Raises ConfigError for a
    folder that holds anything.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder for the set: bluemask synth FOLDER")
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".drawing-", dir=folder) as growing:  # a folder holds a whole set or none
        found = write_set(Path(growing), count=count, seed=seed, side=side)
        for part in (IMAGES, MASKS):
            (Path(growing) / part).replace(folder / part)
    total = count * len(FOLDERS)
    console.print(f"{total} images of {side} × {side} pixels, {count} each of {', '.join(FOLDERS)}")
    console.print(f"sha256 of the pixels: {found}", highlight=False, soft_wrap=True)
    standard = (count, seed, side) == (COUNT, 0, SIDE)
    if standard and found != DIGEST:
        console.print(
            f"[red]That is not the set's digest, {DIGEST}: do not compare figures measured on these images.[/]",
            soft_wrap=True,
        )
    console.print(_next_commands(folder), highlight=False, soft_wrap=True)
    return int(standard and found != DIGEST)


def _next_commands(folder: Path) -> str:
    images, masks, config, store = (
        escape(quote(f"{folder}{end}")) for end in (f"/{IMAGES}", f"/{MASKS}", ".yaml", ".store")
    )
    return (
        "next:\n"
        f"  bluemask init {images} --out {config} --store {store}\n"
        f"  bluemask run {config}\n"
        f"  bluemask evaluate {store} --masks {masks}"
    )


def write_set(folder: Path, *, count: int, seed: int = 0, side: int = SIDE) -> str:
    """Draw `count` images a class into `folder`/images and their label maps into `folder`/masks.

    Returns the digest of the pixels, as models.bluefilm.digest has it.
    """
    for part in (IMAGES, MASKS):
        for name in FOLDERS:
            (folder / part / name).mkdir(parents=True, exist_ok=True)
    pictures = _written(folder, count, seed, side)
    total = count * len(FOLDERS)
    console = Console(stderr=True)
    return digest(track(pictures, "drawing blue film", total=total, console=console, transient=True))


def _written(folder: Path, count: int, seed: int, side: int) -> Iterator[Picture]:
    """The set in order, each image on disk by the time that it comes."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name in FOLDERS:
            yield from pool.map(partial(_write, folder, name, seed=seed, side=side), range(count))


def _write(folder: Path, name: str, number: int, *, seed: int, side: int) -> Picture:
    picture = draw(name, number, seed=seed, side=side)
    place = Path(name) / f"{name}_{number:03d}.png"
    target = folder / IMAGES / place
    if not cv2.imwrite(str(target), picture.image[..., ::-1]):
        raise OSError(f"{target} could not be written; is the disk full?")
    label_png(picture.mask, folder / MASKS / place)
    return picture
