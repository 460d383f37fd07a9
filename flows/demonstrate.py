"""The demo: the beginning of the blue-film set, every stage at work on it, scores, and one picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from rich.console import Console

from flows.begin import run_config
from flows.config import ConfigError
from flows.outputs import print_scores, show_images
from flows.summary import print_summary
from flows.synthesise import IMAGES, MASKS, write_set
from models.bluefilm import CLASSES
from storage.store import Store

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
COUNT = 10
"""Images of each class, and good ones: the first of the set that `bluemask synth` draws."""


def write_demo_config(out: Path) -> Path:
    """The demo's config with its image folder and store set to `out`."""
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    values["data"]["folder"], values["store"] = IMAGES, "store"
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
    for part in (IMAGES, MASKS):
        shutil.rmtree(out / part, ignore_errors=True)
    if Store(out / "store").classes() not in ([], sorted(CLASSES)):
        shutil.rmtree(out / "store")  # of another version, which drew other defects
    write_set(out, count=COUNT)
    summary = run_config(out / "demo.yaml", Console(stderr=True))
    print_summary(summary, console)
    print_scores(out / "store", out / MASKS, console)
    names = sorted(f"{name}/{name}_000.png" for name in CLASSES)
    show_images(out / "store", names, out / "demo.png", masks=out / MASKS)
    console.print(f"\nOne image of each class, from its views to its label: [bold]{out / 'demo.png'}[/]")
    console.print(f"The arrays: {out / 'store'}; how they stand: bluemask status {out / 'store'}")
    return summary.exit_code
