"""What `bench.quality` trains beside the pipeline: the ceiling, taught by masks; ViTs that score unseen images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from bench.quality_measure import Tally, class_aurocs
from bench.quality_rows import BY_NAME
from bench.quality_run import Site
from flows import recipes, training
from flows.networks import device_of, precision_of, settle
from flows.plan import section
from flows.summary import stored_config
from models.appearance import Lesson
from models.cams import activate
from models.checkpoints import save_checkpoint
from models.fusion import FOLDS, Fusion, load_fusion, metadata_of
from models.fusion_patches import Patch
from models.fusion_records import FusionRecipe, appearances, collect, lessons_of, with_looks
from models.train_fusion import Fold
from models.vit import load_vit
from storage.store import Store
from tasks.evaluate import Confusion, metrics
from tasks.fuse import fuse
from tasks.reading import Labelled
from tasks.registry import stage
from tasks.train_vit import train as train_vit

PARTS = 5
"""Folds of the ceiling: four fifths teach, one is labelled."""
HALVES = 2
"""Folds of the ViTs that score unseen images."""
FREE = 1e6
"""A bound that bounds nothing: masks may overrule CAM and SAM."""


def grouped(items: Sequence[Labelled], parts: int) -> list[list[Labelled]]:
    """The images of each part, by their digests, all but equally many. Raises ValueError where one would be empty."""
    if len(items) < parts:
        raise ValueError(f"{len(items)} images are too few for {parts} parts; take more by --images")
    order = {sha256: n for n, sha256 in enumerate(sorted({item.row.sha256 for item in items}))}
    ordered = sorted(items, key=lambda item: order[item.row.sha256])  # equal files share a part
    return [[item for item in ordered if order[item.row.sha256] % parts == n] for n in range(parts)]


def _key(site: Site) -> str:
    """Names the run whose arrays the store must hold."""
    return site.recipe(BY_NAME["full"])[:12]


# -- the ceiling ------------------------------------------------------------------------------------------


class Masked(Sequence[dict[str, np.ndarray]]):
    """Images as the fusion training reads them, their masks in the place of one drawn by hand."""

    def __init__(self, items: Sequence[Labelled], truth: Callable[[str], np.ndarray]) -> None:
        """truth: gives an image's mask by its path."""
        self.items, self.truth = items, truth

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """One image's arrays by name."""
        item = self.items[index]
        record = {name: item.array(name) for name in training.READS["fusion"]}
        return record | {"correction": self.truth(item.row.path)}


def ceiling(site: Site, console: Console) -> dict[str, Any]:
    """Metrics of the fusion network and its look taught by masks, each image labelled by networks that never saw it.

    Their inputs are those of the run `full`, whose arrays the store must hold. The recipe is that of the config, but
    that nothing is taken from the inputs in training, that the image may overrule the others without bound, and that
    defects weigh no more than they are common: a mask, unlike agreement, shows all of both.
    """
    store = Store.existing(site.store)
    config, parts, truth = stored_config(store), grouped(site.items(), PARTS), site.truths()
    settle(config)
    known = recipes.training_section(config, "fusion")
    recipe = replace(FusionRecipe(**known), drop_cam=0.0, drop_sam=0.0, drop_all=0.0, balance=0.0)
    if (steps := site.ceiling_steps) is not None:
        recipe = replace(recipe, min_steps=steps, max_steps=steps)
    confusion, tally = Confusion(), Tally(len(store.classes()))
    with Progress(console=console) as shown:
        patches = [collect(Masked(items, truth), recipe) for items in parts]
        lessons = [lessons_of(Masked(items, truth), recipe)[0] for items in parts]
        for n, items in enumerate(parts):
            path = site.root / "networks" / f"ceiling-{_key(site)}-{recipe.max_steps}-{n}.safetensors"
            if not path.is_file():
                others = [patch for m, some in enumerate(patches) if m != n for patch in some]
                looks = [one for m, some in enumerate(lessons) if m != n for one in some], lessons[n]
                _teach(
                    others,
                    looks,
                    recipe,
                    n,
                    path,
                    device_of(config),
                    training.training_precision(config),
                    shown,
                )
            model = load_fusion(path, device_of(config))
            bar = shown.add_task(f"ceiling {n + 1}/{PARTS}, labels", total=len(items))
            for item in items:
                made = _fused(item, model, config)
                mask = truth(item.row.path)
                confusion.add(mask, made["p"][0], item.row.path)
                tally.add(mask, made["p"][0], made["confidence"][0])
                shown.advance(bar)
    return {"versions": {"P": metrics(confusion, store.classes())}, "confidence": tally.figures()}


def _teach(
    patches: Sequence[Patch],
    looks: tuple[Sequence[Lesson], Sequence[Lesson]],
    recipe: FusionRecipe,
    n: int,
    path: Path,
    device: str,
    precision: Any,
    shown: Progress,
) -> None:
    """Train one part's networks and write them, as those of both folds of a `Fusion`. looks: as of `appearances`."""
    looking = appearances([looks], recipe, torch.device(device)) * FOLDS
    fold = Fold(patches, recipe, n, torch.device(device))
    for bound in (fold.net.bound, fold.ema["bound"]):
        bound.fill_(FREE)
    bar = shown.add_task(f"ceiling {n + 1}/{PARTS}, training", total=fold.steps)
    while fold.step < fold.steps:
        fold.advance(precision)
        shown.advance(bar)
    model = with_looks(looking)
    for net in model.nets:
        net.load_state_dict(fold.ema)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, model.state_dict(), metadata_of(model, part=n, of=PARTS, folds=FOLDS))


def _fused(item: Labelled, model: Fusion, config: Any) -> dict[str, np.ndarray]:
    """What the stage `fuse` makes of one image with that model."""
    found = stage("fuse")
    given: dict[str, Any] = {name: item.array(name)[None] for name in found.inputs}
    with torch.inference_mode():
        return fuse(**given, **section(config, found.config), model=model, precision=precision_of(config))


# -- scores of images whose labels were withheld ----------------------------------------------------------


def withheld(site: Site, console: Console) -> dict[str, Any]:
    """AUROC of scores by ViTs that were trained without the images that they score: mean of two halves."""
    store = Store.existing(site.store)
    config, parts = stored_config(store), grouped(site.items(), HALVES)
    settle(config)
    classes, each = store.classes(), []
    with Progress(console=console) as shown:
        for n, items in enumerate(parts):
            others = [item for m, some in enumerate(parts) if m != n for item in some]
            path = site.root / "networks" / f"withheld-{_key(site)}-{n}.safetensors"
            if not path.is_file():
                _trained(others, path, config, shown, f"ViT {n + 1}/{HALVES}")
            model = load_vit(path, device_of(config))
            bar = shown.add_task(f"ViT {n + 1}/{HALVES}, scores", total=len(items))
            score = np.zeros((len(items), len(classes)))
            for row, item in enumerate(items):
                label = np.array([name in item.row.labels for name in classes])
                seen = activate(model, item.array("image"), label, precision=precision_of(config), known=item.array("objectness"),
                                **config.cam.model_dump(exclude={"low", "high"}))  # fmt: skip
                score[row] = seen.score
                shown.advance(bar)
            has = np.array([[name in item.row.labels for name in classes] for item in items])
            each.append(class_aurocs(score, has))
    return {"score": {name: _mean([one[name] for one in each]) for name in each[0]}}


def _trained(items: Sequence[Labelled], path: Path, config: Any, shown: Progress, title: str) -> None:
    bar = shown.add_task(f"{title}, training", total=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    train_vit(
        [{name: item.array(name) for name in training.READS["vit"]} for item in items],
        out=path, state=path.with_suffix(".state"), device=device_of(config),
        precision=training.training_precision(config), threads=config.threads,
        report=lambda done, total, *_: shown.update(bar, completed=done, total=total),
        **recipes.training_section(config, "vit"),
    )  # fmt: skip
    shutil.rmtree(path.with_suffix(".state"), ignore_errors=True)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
