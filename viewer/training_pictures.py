"""Pictures of a training, beside its logs: `curves.png`, its losses, and `cams.png`, where the new ViT looks."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.cam import normalised
from viewer import style
from viewer.strip import overlaid, save

SMOOTH = 15
"""Parts of a training over which the bold line averages."""
EACH, MOST = 2, 16
"""Images a class, and classes, that are drawn."""
LARGEST = 400
"""Longest side in pixels of a drawn image: a cell has no more."""
PANEL = (3.6, 2.3)
"""Inches: a panel of curves, without its labels."""
LETTER, NOTE_LINE = 0.056, 0.15
"""Inches: mean width of a letter of a note, and the height of its line."""
CLASSIFIES = (
    "Classification: how far the class scores are from the images' labels; the training ends early when it falls no more. "
    "Contrast: Class Token Contrast, which begins later and rises with every crop that it remembers."
)
"""Said below the CAM branch's curves."""
RISES = (
    "Agreement: how far P is from what CAM and SAM's views agree on. Consistency: how much P differs, elsewhere, between two "
    "views of the same pixels. "
    "The weight of consistency rises from 0 over the first third of the planned steps, "
    "and the loss (agreement + weight × consistency) may rise with it."
)
"""Said below the fusion's curves (see `models.train_fusion.Fold.advance`): without it they look as if training failed."""
CELL, GAP, NEXT, LINE, EDGE = 1.5, 0.05, 0.3, 0.34, 0.2
"""Inches: a cell's side, between an image and its CAM, between two pairs, a caption, and the margin."""


# -- losses -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """What was noted of one network's training.

    title: of its panel; step: (entry,) int; losses: (entry,) float64 by name, NaN where there was none yet; note: a sentence
    without which its curves would be misread.
    """

    title: str
    step: np.ndarray
    losses: dict[str, np.ndarray]
    note: str = ""


def read_losses(folder: Path) -> list[Losses]:
    """The networks whose losses are noted in a training's folder: the ViT's, or one a fold of the fusion's.

    Raises ValueError where nothing is noted there.
    """
    tables = sorted(folder.rglob("losses.csv"), key=lambda path: path.stat().st_mtime_ns)
    if tables:  # another device or precision has a folder of its own: the last one counts
        return [_vit_losses(tables[-1])]
    if (folder / "fusion.jsonl").is_file():
        return _fusion_losses(folder / "fusion.jsonl")
    raise ValueError(f"{folder}: there is neither losses.csv nor fusion.jsonl in it")


def _vit_losses(path: Path) -> Losses:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classification, contrast = (
        np.array([float(row[name]) for row in rows]) for name in ("classification", "contrast")
    )
    contrast[contrast == 0] = np.nan  # before CTC begins, and where a batch holds nothing to contrast
    named = {"classification": classification, "contrast": contrast}
    return Losses("CAM branch", np.array([int(row["step"]) + 1 for row in rows]), named, CLASSIFIES)


def _fusion_losses(path: Path) -> list[Losses]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = []
    for fold in sorted({entry["fold"] for entry in entries}):
        own = [entry for entry in entries if entry["fold"] == fold]
        names = ("agreement", "consistency", "loss")
        named = {name: np.array([entry[name] for entry in own], np.float64) for name in names}
        steps = np.array([entry["step"] for entry in own])
        found.append(Losses(f"fusion, fold {fold + 1}", steps, named, RISES))
    return found


def smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean of (entry,) over a SMOOTH-th of all, over fewer at the ends; NaN stays and is left out."""
    width = 2 * (len(values) // (2 * SMOOTH)) + 1
    there = np.isfinite(values)
    total, count = (np.convolve(x, np.ones(width), "same") for x in (np.where(there, values, 0), there * 1.0))
    return np.where(there, total / np.maximum(count, 1), np.nan)


def loss_curves(networks: Sequence[Losses]) -> Figure:
    """One panel a network, side by side: the noted losses faint, their running mean above, what is to be known below."""
    left, foot, head, apart = 0.65, 0.55, 0.35, 0.75
    width = left + len(networks) * (PANEL[0] + apart) - apart + 0.2
    notes = dict.fromkeys(network.note for network in networks if network.note)
    lines = [line for note in notes for line in wrap(note, int((width - 0.4) / LETTER))]
    foot += NOTE_LINE * len(lines)
    height = foot + PANEL[1] + head
    figure = Figure(figsize=(width, height), facecolor=style.PAPER)
    for n, network in enumerate(networks):
        x = left + n * (PANEL[0] + apart)
        axes = figure.add_axes((x / width, foot / height, PANEL[0] / width, PANEL[1] / height))
        _draw_losses(axes, network)
    for n, line in enumerate(reversed(lines)):
        figure.text(0.2 / width, (0.08 + NOTE_LINE * n) / height, line, size=7.5, color=style.QUIET)
    return figure


def _draw_losses(axes: Axes, network: Losses) -> None:
    for n, (name, values) in enumerate(network.losses.items(), start=1):
        if np.isfinite(values).any():
            axes.plot(network.step, values, color=style.colour(n), alpha=0.3, linewidth=0.8)
            axes.plot(network.step, smoothed(values), color=style.colour(n), linewidth=1.6, label=name)
    axes.set_title(network.title, size=9, color=style.INK, weight="bold")
    axes.set_xlabel("step", size=8, color=style.QUIET)
    axes.set_ylabel("loss", size=8, color=style.QUIET)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(labelsize=7.5, colors=style.QUIET, length=2.5)
    axes.grid(color=style.RULE, linewidth=0.5, alpha=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(style.RULE)
    if axes.lines:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=style.INK, handlelength=1.2)


def draw_curves(folder: Path) -> None:
    """Write `curves.png` into a training's folder. Raises ValueError where no losses are noted there."""
    save(loss_curves(read_losses(folder)), folder / "curves.png")


# -- CAMs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """One image and where the network sees one class: image (y, x, 3) uint8; cam (y, x) float32 in [0, 1].

    name: of the class; score: its probability.
    """

    image: np.ndarray
    cam: np.ndarray
    name: str
    score: float


def choose(
    digests: Sequence[str], labels: Sequence[Sequence[str]], classes: Sequence[str]
) -> list[tuple[int, int]]:
    """Which images are drawn for which class: class index from 0 and place in `digests`, EACH a class.

    digests: of the images' files, which decide, so that the same set always shows the same; labels: the names of
    each image's classes. No more than MOST classes.
    """
    chosen = []
    for k, name in list(enumerate(classes))[:MOST]:
        named = [n for n, own in enumerate(labels) if name in own]
        chosen += [(k, n) for n in nsmallest(EACH, named, key=lambda n: digests[n])]
    return chosen


def look(model: Any, record: Mapping[str, np.ndarray], k: int, name: str, **looking: Any) -> Sight:
    """Where a network sees a class.

    record: `image` (y, x, 3) uint8, `label` (class,) bool, perhaps narrower than the network's classes, and perhaps
    `objectness` (y, x), of which nothing is known without; k: the class, from 0; looking: of `models.cams.activate`.
    """
    from models.cams import activate, fitted, resized

    image, label = np.ascontiguousarray(record["image"]), record["label"]
    present = np.zeros(model.classes, bool)
    present[: len(label)] = label
    seen = activate(model, image, present, known=record.get("objectness"), **looking)
    cam = normalised(seen.cam[k], float(model.tau[k]))
    size = fitted((image.shape[0], image.shape[1]), min(LARGEST, max(image.shape[:2])))
    return Sight(resized(image, size), resized(cam, size), name, float(seen.score[k]))


def sample_cams(sights: Sequence[Sight]) -> Figure:
    """A row a class: images with the CAM of that class laid over them at their right, and its score below."""
    rows: dict[str, list[Sight]] = {}
    for sight in sights:
        rows.setdefault(sight.name, []).append(sight)
    pair = 2 * CELL + GAP
    width = 2 * EDGE + EACH * (pair + NEXT) - NEXT
    height = 2 * EDGE + len(rows) * (CELL + LINE)
    figure = Figure(figsize=(width, height), facecolor=style.PAPER)
    for r, row in enumerate(rows.values()):
        bottom = height - EDGE - r * (CELL + LINE) - CELL
        for n, sight in enumerate(row):
            left = EDGE + n * (pair + NEXT)
            for offset, anchor, picture in (
                (0.0, "SE", sight.image / 255),
                (CELL + GAP, "SW", overlaid(sight.image, sight.cam)),
            ):
                place = ((left + offset) / width, bottom / height, CELL / width, CELL / height)
                axes = figure.add_axes(place, anchor=anchor)
                axes.imshow(picture, interpolation="antialiased")
                axes.set_axis_off()
            caption = f"{sight.name[:30]} · score {sight.score:.2f}".replace("$", r"\$")
            middle = ((left + pair / 2) / width, (bottom - 0.2) / height)
            figure.text(*middle, caption, size=8, color=style.INK, ha="center")
    return figure


def draw_cams(
    checkpoint: Path,
    folder: Path,
    records: Sequence[Mapping[str, np.ndarray]],
    chosen: Sequence[tuple[int, int]],
    classes: Sequence[str],
    *,
    device: str,
    **looking: Any,
) -> None:
    """Write `cams.png` into a training's folder.

    checkpoint: the new ViT; records: its data set, of which only the chosen images are read; chosen: by `choose`;
    classes: all names; looking: of `models.cams.activate`. Nothing is written where no class has an image.
    """
    from models.vit import load_vit

    model = load_vit(checkpoint, device)
    sights = [look(model, records[n], k, classes[k], **looking) for k, n in chosen if k < model.classes]
    if sights:
        save(sample_cams(sights), folder / "cams.png")
