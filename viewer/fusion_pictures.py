"""`samples.png` beside the fusion's losses: what the new networks were told of some images, and the P that they make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from tasks.fuse import fuse
from viewer import style
from viewer.strip import labels_over, overlaid, save
from viewer.training_pictures import CELL, EDGE, GAP, LARGEST

SIDE, HEAD, FOOT = 1.5, 0.45, 0.5
"""Inches: the names at the left, the columns' titles, and the sentence below."""
MOST_PIXELS = 2_000_000
"""Pixels, times the classes of their image, that are fused for a picture: the networks take some 12 s of a core for a million."""
HUGE = 5 * MOST_PIXELS
"""From more on, even a single image takes minutes of every training, and there is no picture."""
COLUMNS = ("image", "CAM", "SAM's mean", "look", "P")
TOLD = {
    True: "Look: what the surface alone says, as learned from the other images' agreed pixels: dark no, bright defect, between "
    "them nothing said.\nP and look are of networks that never learned from this image.",
    False: "Too few images to part: the one network that there is learned from these images too.",
}
"""Said below, by whether the networks are cross-fitted."""


def affordable(
    chosen: Sequence[tuple[int, int]], pixels: Sequence[int], most: int = MOST_PIXELS
) -> list[tuple[int, int]]:
    """Those of the chosen that have no more than `most` pixels together, in their order; the smallest alone where none has.

    chosen: of `training_pictures.choose`; pixels: of each image, times its classes. A class's first image comes before any
    other's second; one that is too large leaves its room to those after it. Empty where the smallest has more than HUGE.
    """
    place = {entry: sum(k == entry[0] for k, _ in chosen[:n]) for n, entry in enumerate(chosen)}
    taken, left = set[tuple[int, int]](), most
    for entry in sorted(chosen, key=lambda entry: place[entry]):
        if pixels[entry[1]] <= left:
            left -= pixels[entry[1]]
            taken.add(entry)
    if not taken and chosen:
        smallest = min(chosen, key=lambda entry: pixels[entry[1]])
        taken = {smallest} if pixels[smallest[1]] <= HUGE else set()
    return [entry for entry in chosen if entry in taken]


@dataclass(frozen=True)
class Fused:
    """One image, what is said of one of its classes, and what comes of it.

    name: of the class; path: of the image; image (y, x, 3) uint8; cam, mean, look (y, x) float32 in [0, 1], look 0.5 where
    it says nothing; p (y, x) uint8 label map, of all its classes.
    """

    name: str
    path: str
    image: np.ndarray
    cam: np.ndarray
    mean: np.ndarray
    look: np.ndarray
    p: np.ndarray


def fused(model: Any, record: Mapping[str, np.ndarray], k: int, name: str, path: str, **fusing: Any) -> Fused:
    """What the fusion makes of one image, as stage `fuse` does, by the network that did not learn from it.

    record: all that stage `fuse` reads, of one image, cut to its true extent; k: a class that its label names, from 1;
    fusing: precision and config of the stage.
    """
    from models.appearance import look
    from models.cams import fitted, resized
    from models.fusion import fold_of

    image, used = record["image"], record["slot_class"] > 0
    block: dict[str, Any] = {key: value[None] for key, value in record.items()}
    made = fuse(**block, model=model, **fusing)
    net, classes = model.appearance(fold_of(record["sha256"])), record["slot_class"][used]
    slot = int(np.flatnonzero(classes == k)[0])
    seen = look(net, record["feature"], image, classes, record["mean"][used], record["weight"])
    size = fitted((image.shape[0], image.shape[1]), min(LARGEST, max(image.shape[:2])))
    planes = (record["cam"][used][slot], record["mean"][used][slot], seen[slot])
    cam, mean, looks = (resized(plane.astype(np.float32), size) for plane in planes)
    rows, columns = (np.arange(n) * whole // n for n, whole in zip(size, image.shape, strict=False))
    small = resized(np.ascontiguousarray(image), size)
    return Fused(name, path, small, cam, mean, looks, made["p"][0][rows[:, None], columns])


def fusion_samples(samples: Sequence[Fused], *, crossed: bool) -> Figure:
    """A row an image, from its pixels over what is said of one class to P.

    crossed: whether the network of an image never saw it.
    """
    width = EDGE + SIDE + len(COLUMNS) * (CELL + GAP) + EDGE
    height = HEAD + len(samples) * (CELL + 3 * GAP) + FOOT
    figure = Figure(figsize=(width, height), facecolor=style.PAPER)

    def text(x: float, y: float, words: str, **how: Any) -> None:
        figure.text(
            x / width, y / height, words.replace("$", r"\$"), **{"color": style.INK, "size": 8, **how}
        )

    for n, title in enumerate(COLUMNS):
        middle = EDGE + SIDE + n * (CELL + GAP) + CELL / 2
        text(middle, height - HEAD + 0.1, title, size=9, ha="center")
    for r, sample in enumerate(samples):
        bottom = height - HEAD - (r + 1) * (CELL + 3 * GAP) + 3 * GAP
        for n, picture in enumerate(_pictures(sample)):
            place = (EDGE + SIDE + n * (CELL + GAP)) / width, bottom / height, CELL / width, CELL / height
            axes = figure.add_axes(place)
            axes.imshow(picture, interpolation="antialiased")
            axes.set_axis_off()
        text(EDGE + SIDE - 0.1, bottom + CELL / 2 + 0.05, sample.name[:20], ha="right", weight="bold")
        stem = PurePosixPath(sample.path).stem
        shown = stem if len(stem) <= 20 else "…" + stem[-19:]
        text(EDGE + SIDE - 0.1, bottom + CELL / 2 - 0.12, shown, size=6.5, color=style.QUIET, ha="right")
    text(EDGE, 0.14, TOLD[crossed], size=7.5, color=style.QUIET)
    return figure


def _pictures(sample: Fused) -> tuple[np.ndarray, ...]:
    """One picture a column: (y, x, 3) in [0, 1]."""
    mean, seen = (
        colormaps[style.HEAT](np.clip(plane, 0, 1))[..., :3] for plane in (sample.mean, sample.look)
    )
    cam = overlaid(sample.image, sample.cam)
    return sample.image / 255, cam, mean, seen, labels_over(sample.image, sample.p)


def draw_samples(
    checkpoint: Path,
    folder: Path,
    records: Sequence[Mapping[str, np.ndarray]],
    chosen: Sequence[tuple[int, int]],
    classes: Sequence[str],
    paths: Sequence[str],
    *,
    device: str,
    **fusing: Any,
) -> None:
    """Write `samples.png` into a training's folder.

    checkpoint: the new networks; records: one an image, with all that stage `fuse` reads; only the chosen ones are read;
    chosen: of `training_pictures.choose`; classes: all names; paths: of the images, as `records`; fusing: of `fused`.
    Nothing is written where no class has an image.
    """
    import torch

    from models.checkpoints import load_checkpoint
    from models.fusion import KIND, load_fusion

    about = json.loads(load_checkpoint(checkpoint)[1][KIND])
    model = load_fusion(checkpoint, device)
    with torch.inference_mode():
        samples = [fused(model, records[n], k + 1, classes[k], paths[n], **fusing) for k, n in chosen]
    if samples:
        save(fusion_samples(samples, crossed=about["cross_fitted"]), folder / "samples.png")
