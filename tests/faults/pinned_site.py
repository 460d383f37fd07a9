"""A site whose networks are pinned, so that runs end bit for bit alike; untrained, as faults ask for no quality."""

import os
import sys
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))

from small_run import CLASSES, Site, draw

from models.checkpoints import save_checkpoint
from models.fusion import Fusion, metadata_of
from models.vit import build_vit, save_vit

FULL = os.environ.get("BLUEMASK_FAULTS") == "full"
"""Whether the bench runs, with its larger numbers, or the tests of every day."""


def checkpoints(folder: Path) -> None:
    save_vit(folder / "vit.safetensors", build_vit("tiny", len(CLASSES), side=64, objectness=True), {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Fusion()
    save_checkpoint(
        folder / "fusion.safetensors", model.state_dict(), metadata_of(model, cross_fitted=True, recipe={})
    )


def pinned_config(folder: Path, **changes) -> None:
    values = {
        "data": {"folder": "images"},
        "store": "store",
        "block": 4,
        "threads": 1,
        "retries": 0,
        "workers": 1,
        "augment": {"views": 2, "scales": [1]},
        "embed": {"batch": 1},  # a call that holds several images rounds each by its neighbours
        "fuse": {"views": 1},
        "alerts": {"quarantined": None},
        "train_vit": {"checkpoint": "vit.safetensors"},
        "train_fusion": {"checkpoint": "fusion.safetensors"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump({**values, **changes}))


def pinned_site(folder: Path, images: int = 8, **changes) -> Site:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(images):
        kind = (*CLASSES, "good")[n % 4]
        draw(folder / "images", f"{kind}/{n:03d}.png", 5_000_000 + n, (24 + 4 * (n % 3), 28 + 4 * (n % 2)))
    checkpoints(folder)
    pinned_config(folder, **changes)
    return Site(folder)
