"""How hard the blue-film set is for a threshold, and how large its defects are: no network, nothing is tuned here.

    python -m bench.bluefilm [--count N]
    python -m bench.bluefilm --picture docs/bluefilm.png

Three readings of Otsu's method, each from one confusion matrix over the set: `smaller`, one threshold an image whose
smaller side is the defect, as `bluemask evaluate` has it; `class`, the better side for each class as a whole; `oracle`,
the better side for every single image, which nobody without masks could know. The set is to stay below 45 mIoU.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.bluefilm import CLASSES, COUNT, FOLDERS, Picture, digest, draw
from tasks.evaluate import Confusion, metrics

READINGS = ("smaller", "class", "oracle")
Sides = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def sides(picture: Picture) -> Sides:
    """Label maps of both sides of Otsu's threshold, the darker first; empty where the image is good."""
    grey = picture.image.mean(2).round().astype(np.uint8)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    index = CLASSES.index(picture.name) + 1 if picture.name in CLASSES else 0
    bright = np.asarray(grey > level)
    return (~bright * np.uint8(index)).astype(np.uint8), (bright * np.uint8(index)).astype(np.uint8)


def overlap(guess: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[int, int]:
    """Pixels of a defect in common, and in either."""
    return int(((guess > 0) & (mask > 0)).sum()), int(((guess > 0) | (mask > 0)).sum())


def choices(found: Iterable[tuple[Picture, Sides]]) -> dict[str, list[int]]:
    """Which side (0 darker, 1 brighter) each reading takes, image by image."""
    smaller, oracle, places = [], [], []
    sums = np.zeros((len(CLASSES) + 1, 2, 2))  # class, side, (common, either)
    for picture, both in found:
        own = np.array([overlap(side, picture.mask) for side in both])
        index = CLASSES.index(picture.name) + 1 if picture.name in CLASSES else 0
        sums[index] += own
        places.append(index)
        smaller.append(int((both[1] > 0).mean() <= 0.5))
        oracle.append(int(np.argmax(own[:, 0] / np.maximum(own[:, 1], 1))))
    best = np.argmax(sums[:, :, 0] / np.maximum(sums[:, :, 1], 1), 1)
    return {"smaller": smaller, "class": [int(best[k]) for k in places], "oracle": oracle}


def main(count: int = COUNT) -> dict[str, dict[str, object]]:
    """Draw the set's first `count` images a class, print the table and return its figures."""
    wanted = [(name, n) for name in FOLDERS for n in range(count)]
    found = [(picture := draw(*each), sides(picture)) for each in track(wanted, "drawing")]
    figures: dict[str, dict[str, object]] = {}
    for reading, chosen in choices(found).items():
        confusion = Confusion()
        for (picture, both), side in zip(found, chosen, strict=True):
            confusion.add(picture.mask, both[side], picture.name)
        figures[reading] = metrics(confusion, CLASSES)
    _print(figures, [picture for picture, _ in found])
    print("sha256 of the pixels:", digest(picture for picture, _ in found))
    return figures


def _print(figures: dict[str, dict[str, object]], pictures: list[Picture]) -> None:
    table = Table("%", *READINGS, "covered", title=f"Otsu on blue film, {len(pictures)} images")
    table.add_row("mIoU", *(f"{100 * float(figures[r]['mIoU']):.1f}" for r in READINGS), "")  # type: ignore[arg-type]
    for name in ("background", *CLASSES):
        shares = [100 * (picture.mask > 0).mean() for picture in pictures if picture.name == name]
        covered = f"{np.mean(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})" if shares else ""
        ious = [figures[r]["IoU"][name] for r in READINGS]  # type: ignore[index]
        table.add_row(name, *(f"{100 * iou:.1f}" for iou in ious), covered)
    Console().print(table)


def contact_sheet(out: Path, rows: Sequence[int] = (2, 5), tile: int = 150) -> None:
    """A column per class in the order of FOLDERS, its images by number, and below them the last one's mask.

    In 256 colours and at `tile` pixels an image, so that it is small.
    """
    lines = []
    for number in rows:
        found = [draw(name, number) for name in FOLDERS]
        lines.append(np.hstack([_tile(picture.image, tile, cv2.INTER_AREA) for picture in found]))
    masks = [np.repeat((picture.mask > 0)[..., None] * np.uint8(255), 3, 2) for picture in found]
    lines.append(np.hstack([_tile(mask, tile, cv2.INTER_NEAREST) for mask in masks]))
    sheet = Image.fromarray(np.vstack(lines)).quantize(256, kmeans=3, dither=Image.Dither.FLOYDSTEINBERG)
    sheet.save(out, optimize=True)


def _tile(image: NDArray[np.uint8], side: int, how: int) -> NDArray[np.uint8]:
    small = cv2.resize(image, (side - 4, side - 4), interpolation=how)
    return np.pad(small, ((2, 2), (2, 2), (0, 0)), constant_values=255)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, help="images of each class")
    parser.add_argument("--picture", type=Path, help="only draw a contact sheet into this PNG")
    words = parser.parse_args()
    if words.picture:
        contact_sheet(words.picture)
    else:
        main(words.count)
