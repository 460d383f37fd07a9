"""What the pages show of a network's last training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TRAININGS = "training"
"""Folder in a store where each training has its own."""
PICTURES = {
    "curves": "losses over the steps",
    "cams": "where it sees each class, on some images",
    "samples": "what it was told of some images, and the P that it makes of them",
}
"""The pictures that a training leaves in its folder, by their names without `.png`, and what they show."""


@dataclass(frozen=True)
class Training:
    """The last training of a network.

    name: as the run's table has it, such as train_vit; before: the stage that it stands before; seconds, images, made: what it
    took, the images that it learned from, and when it ended in UTC, ISO 8601, 0 and empty where that was not kept; folder:
    its name, empty where there is none; pictures: names of PICTURES that lie in it, with the time of each in ns; used:
    whether its network is the one in use.
    """

    name: str
    before: str
    seconds: float
    images: int
    made: str
    folder: str
    pictures: tuple[tuple[str, int], ...]
    used: bool


def pictures_in(folder: Path) -> tuple[tuple[str, int], ...]:
    """Names and times in ns of the pictures in a training's folder."""
    there = ((name, folder / f"{name}.png") for name in PICTURES)
    return tuple((name, path.stat().st_mtime_ns) for name, path in there if path.is_file())
