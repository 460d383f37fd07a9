"""Measures an embedded start without a real mask: `python -m bench.start --folder photos/`.

By IoU of its objectness on held-out procedural surfaces, whose masks are known, and by how well objectness tells the
images of each class of a folder from those without a defect, which labels alone say. So one start, or other scales, can
be chosen over another before any mask is looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.quality_measure import auroc_of
from flows.config import NORMAL
from models.start import SCALES, Start, load_start, objectness
from models.surfaces import generate
from models.train_start import HELD_OUT
from storage.pixels import UnreadableImage, read_header, read_pixels, to_rgb8
from storage.sources import Source, scan

SIDES = (128, 200, 320)
"""Sides in pixels of the procedural surfaces."""
MARGIN = 6
"""Pixels at an image's border that do not count: where a part ends in the picture it looks like an anomaly."""
LEVELS = {"maximum": 1.0, "99th percentile": 0.99, "95th percentile": 0.95}
"""What stands for an image, of its pixels' objectness: small defects show in the first, wide ones in the last."""


def surface_iou(start: Start, side: int, images: int, scales: tuple[float, ...]) -> float:
    """Mean IoU of objectness ≥ 0.5 over surfaces of side² pixels, those with a defect, of seeds no training draws."""
    found = []
    for seed in range(HELD_OUT, HELD_OUT + images):
        surface = generate(seed, side)
        if len(surface.instances):
            seen = objectness(start, surface.image, scales=scales) >= 0.5
            truth = surface.instances.any(0)
            found.append((seen & truth).sum() / (seen | truth).sum())
    return float(np.mean(found))


def levels(start: Start, image: np.ndarray, scales: tuple[float, ...]) -> list[float]:
    """LEVELS of one image, (y, x, 3) uint8, in their order."""
    seen = objectness(start, image, scales=scales)
    if min(seen.shape) > 4 * MARGIN:
        seen = seen[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return [float(np.quantile(seen, share)) for share in LEVELS.values()]


def class_table(found: np.ndarray, sources: list[Source]) -> dict[str, list[float | None]]:
    """AUROC of each level, by class, against the images without a defect.

    found: (image, level); sources: the images, in the same order.
    """
    names = sorted({name for source in sources for name in source.labels})
    table: dict[str, list[float | None]] = {}
    for name in names:
        kept = [n for n, source in enumerate(sources) if not source.labels or name in source.labels]
        has = np.array([bool(sources[n].labels) for n in kept])
        table[name] = [auroc_of(found[kept, level], has) for level in range(found.shape[1])]
    return table


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a start's export; none: the one that ships")
    parser.add_argument("--folder", type=Path, help="images, a folder per class and one of good ones")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of an image, averaged")
    parser.add_argument("--images", type=int, default=40, help="procedural surfaces a side")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    start, scales, console = load_start(given.weights), tuple(given.scales), Console()
    table = Table("surfaces of", "IoU", title="procedural surfaces, percent")
    for side in track(SIDES, "surfaces", console=console, transient=True):
        table.add_row(f"{side}²", f"{100 * surface_iou(start, side, given.images, scales):.1f}")
    console.print(table)
    if given.folder is None:
        return
    sources, found = [], []
    for source in track(scan(given.folder, None, NORMAL).sources, "images", console=console, transient=True):
        path = given.folder / source.path
        try:
            most = 2 ** read_header(path).bits - 1
            image = to_rgb8(read_pixels(path), (0, most))
        except UnreadableImage as error:
            console.print(f"[yellow]left out[/] {error}", highlight=False)
            continue
        sources.append(source)
        found.append(levels(start, image, scales))
    table = Table(
        "class", *LEVELS, title=f"{given.folder}: AUROC against good images, percent, by labels alone"
    )
    for name, row in class_table(np.array(found), sources).items():
        table.add_row(name, *("–" if value is None else f"{100 * value:.1f}" for value in row))
    console.print(table)


if __name__ == "__main__":
    main()
