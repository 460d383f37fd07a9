"""The demo: a small set of procedural surfaces, every stage at work on it, scores, and one picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from flows.begin import run_config
from flows.config import ConfigError
from flows.outputs import print_scores, show_images
from flows.summary import print_summary
from models.surfaces import KINDS, Surface, generate
from tasks.export import label_png

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
FIRST_SEED = 900_000_000
"""Far from the seeds that the embedded weights were trained on: these surfaces are new to them."""
CLASSES = tuple(sorted(KINDS))
"""In the order that a folder per class gives."""
PER_CLASS, GOOD = 12, 12
SIZES = ((160, 160), (144, 192), (176, 144), (160, 208))
"""Heights and widths in pixels: mixed, as in real sets."""


def draw_set(folder: Path) -> None:
    """Draw the demo's images, a folder per kind and one `good`, and their exact masks beside them."""
    wanted = [(kind, n) for kind in KINDS for n in range(PER_CLASS)] + [("good", n) for n in range(GOOD)]
    for place, (kind, n) in enumerate(track(wanted, description="drawing surfaces", transient=True)):
        surface = _draw(FIRST_SEED + 100 * place, kind, SIZES[n % len(SIZES)])
        for part, value in (("images", surface.image), ("masks", _label_map(surface, kind))):
            path = folder / part / kind / f"{kind}_{n:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if part == "images":
                cv2.imwrite(str(path), value[..., ::-1])
            else:
                label_png(value, path)


def _draw(seed: int, kind: str, shape: tuple[int, int]) -> Surface:
    """A surface with at least one piece of the kind; the next seed where none found room."""
    if kind == "good":
        return generate(seed, size=shape, defects=0)
    while not len((surface := generate(seed, size=shape, kind=kind)).instances):
        seed += 1
    return surface


def _label_map(surface: Surface, kind: str) -> np.ndarray:
    index = CLASSES.index(kind) + 1 if kind != "good" else 0
    return np.asarray(surface.instances.any(0) * index, np.uint8)


def write_demo_config(out: Path) -> Path:
    """The demo's config with its image folder and store set to `out`."""
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    values["data"]["folder"], values["store"] = "images", "store"
    target = out / "demo.yaml"
    target.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return target


def demonstrate(out: Path) -> int:
    """Run the demo into `out`. Returns the exit status of its run."""
    console = Console()
    if out.exists() and any(out.iterdir()) and not (out / "demo.yaml").is_file():
        raise ConfigError(
            f"{out} holds other files; give the demo an empty folder: bluemask demo --out FOLDER"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_demo_config(out)
    for part in ("images", "masks"):
        shutil.rmtree(out / part, ignore_errors=True)
    draw_set(out)
    summary = run_config(out / "demo.yaml", Console(stderr=True))
    print_summary(summary, console)
    print_scores(out / "store", out / "masks", console)
    names = sorted(f"{kind}/{kind}_000.png" for kind in KINDS)
    show_images(out / "store", names, out / "demo.png", masks=out / "masks")
    console.print(f"\nOne image of each class, from its views to its label: [bold]{out / 'demo.png'}[/]")
    console.print(f"The arrays: {out / 'store'}; how they stand: bluemask status {out / 'store'}")
    return summary.exit_code
