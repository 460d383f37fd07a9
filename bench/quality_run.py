"""One set and seed of `bench.quality`: a store that is reconfigured from variant to variant, and measured."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from bench.quality_measure import Tally, Thresholds, class_aurocs
from bench.quality_rows import BY_NAME, Changes, Variant
from bench.quality_sets import CONFIGS, ROOT, ImageSet, write_points
from flows import recipes
from flows.begin import all_steps
from flows.config import Config, anchored, build_config
from flows.execute import Job
from flows.networks import load_model, precision_of, promoted
from flows.outputs import finished, scores
from flows.plan import digest_of, facts, section
from flows.runners import Alone
from flows.summary import plan_of, stored_config
from models.checkpoints import digest
from models.sam_shapes import WEIGHTS
from models.telling import Report
from storage.pixels import read_label_map
from storage.store import Store
from tasks.evaluate import find_masks
from tasks.reading import Labelled
from tasks.registry import stages
from tasks.stage import ModelKind

SEEDED = ("augment", "prompt", "train_vit", "train_fusion")
"""Sections that draw by chance."""
PLACES = (
    "store",
    "workers",
    "retries",
    "threads",
    "memory_gb",
    "retention",
    "alerts",
    "keep",
    "runner",
    "scheduler",
)
"""Keys of the config on which no figure depends."""
NOTED = 5.0
"""Seconds between two notes of how long a training has taken so far."""


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, the later ones winning."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
            out[key] = merged(out[key], value) if both else value
    return out


def write_json(path: Path, value: Any) -> None:
    """Write a file by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


class Clocked(Alone):
    """This process alone, which keeps how long trainings took, those included that were killed and went on."""

    def __init__(self, config: Config, path: Path, keys: Mapping[ModelKind, str]) -> None:
        """path: a JSON file of seconds by key; keys: of the networks, by kind."""
        super().__init__(config)
        self.path, self.keys = path, keys

    def fit(self, job: Job, kind: ModelKind, report: Report) -> str:
        """Train a network."""
        last = time.monotonic()

        def note(*, least: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= least:
                add_seconds(self.path, self.keys[kind], now - last)
                last = now

        def seen(*figures: Any) -> None:
            note(least=NOTED)
            report(*figures)

        outcome = super().fit(job, kind, seen)
        note(least=0.0)
        return outcome


def add_seconds(path: Path, key: str, seconds: float) -> None:
    """Count seconds towards a key."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[key] = round(found.get(key, 0.0) + seconds, 2)
    write_json(path, found)


@dataclass
class Site:
    """A set and a seed: one folder with a store, trained networks, and a JSON file a finished row."""

    root: Path
    images: ImageSet
    seed: int
    base: Changes
    ceiling_steps: int | None = None
    """Steps of each of the ceiling's folds; None as the config says."""

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.root / "store"

    @property
    def clock(self) -> Path:
        """Seconds of trainings, by key of the network."""
        return self.root / "trainings.json"

    def row(self, variant: Variant) -> Path:
        """Where a finished row is kept."""
        return self.root / "rows" / f"{variant.name}.json"

    def finished_row(self, variant: Variant) -> dict[str, Any] | None:
        """A row that is done and whose config, images, weights and stages are still the same; else None."""
        path = self.row(variant)
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if found["recipe"] == self.recipe(variant) else None

    # -- configs ------------------------------------------------------------------------------------------

    def config(self, variant: Variant, pins: Mapping[ModelKind, Path] | None = None) -> Config:
        """The set's config with seed and changes. pins: files of networks that are not to be trained, by kind."""
        name = self.images.name.split("-")[0]
        file = CONFIGS.get(name)
        known = yaml.safe_load((ROOT / file).read_text(encoding="utf-8")) if file else {}
        fixed: dict[str, Any] = {
            "data": {"folder": str(self.images.images)},
            "store": str(self.store),
            "retrain": {"promote": "always", "policy": "always"},
            "retention": {"nights": 0},  # what the variant before left would soon fill the disk
            **{part: {"seed": self.seed} for part in SEEDED},
        }
        if variant.name == "points":
            fixed["data"]["points"] = str(self.root / "points.csv")
        named = {f"train_{kind}": {"checkpoint": str(path)} for kind, path in (pins or {}).items()}
        values = merged(known, self.base, fixed, variant.changes, named)
        return anchored(build_config(values, f"bench.quality, {variant.name}"), ROOT)

    def recipe(self, variant: Variant) -> str:
        """Digest of all that a row depends on but the code: config, images, masks, weights, versions of stages."""
        places = {"folder", "labels", "annotations", "points"}
        config = self.config(variant).model_dump(mode="json", exclude={*PLACES, "data"})
        config["data"] = self.config(variant).data.model_dump(mode="json", exclude=places)
        steps = [self.ceiling_steps] if variant.kind == "ceiling" else []
        return digest_of([variant.name, variant.kind, config, self._given(), *steps])

    def _given(self, before: ModelKind | None = None) -> list[Any]:
        """Images, weights and versions of all stages and trainings, or of those up to a network's training."""
        names = [stage.model for stage in stages()]
        last = len(names) if before is None else names.index(before)
        versions = [[stage.name, stage.version] for stage in stages()[:last]]
        trainings = sorted(
            (kind, n) for kind, n in recipes.VERSIONS.items() if kind in (before, *names[:last])
        )
        return [self.images.digest, self._weights, versions, trainings]

    @cached_property
    def _weights(self) -> list[str]:
        return [digest(path) for path in sorted(WEIGHTS.glob("*.safetensors"))]

    def network_keys(self, variant: Variant) -> dict[ModelKind, str]:
        """Names of a variant's trained networks: the same name wherever they are the same network."""
        teacher = self.config(BY_NAME[variant.vit])
        vit = digest_of([recipes.training_section(teacher, "vit"), self._given("vit")])
        config = self.config(variant).model_dump(mode="json", exclude={*PLACES, "data", "fuse"})
        fusion = digest_of([vit, config, variant.name == "points", self._given("fusion")])
        return {"vit": f"vit-{vit}", "fusion": f"fusion-{fusion}"}

    def network(self, key: str) -> Path:
        """The file of a trained network that is kept."""
        return self.root / "networks" / f"{key}.safetensors"

    # -- runs ---------------------------------------------------------------------------------------------

    def run(self, variant: Variant, console: Console) -> None:
        """Bring the store to what a variant makes; nothing is done twice. Raises RuntimeError where it fails."""
        if variant.name == "points":
            write_points(self.images, self.seed, self.root / "points.csv")
        keys = self.network_keys(variant)
        pins = {kind: self.network(key) for kind, key in keys.items() if self.network(key).is_file()}
        config = self.config(variant, pins)
        summary = all_steps(config, Clocked(config, self.clock, keys), None, console, tidy=True)
        if summary.failures or summary.quarantined or summary.failed_images:
            told = summary.failures or summary.failed_images or [row.path for row in summary.quarantined]
            raise RuntimeError(f"{self.images.name}, seed {self.seed}, {variant.name}: {told}")
        for kind, key in keys.items():
            self._keep(kind, key)

    def _keep(self, kind: ModelKind, key: str) -> None:
        """Keep a network that was trained just now."""
        store, target = Store.existing(self.store), self.network(key)
        entry = promoted(store, kind)
        if target.is_file() or entry is None:
            return
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(store.checkpoint(entry["digest"], self.root), target.with_suffix(".partial"))
        target.with_suffix(".partial").replace(target)

    def items(self) -> list[Labelled]:
        """Every image of the store, with its arrays."""
        store = Store.existing(self.store)
        found = finished(store, stored_config(store))
        if len(found) != len(self.images.paths):
            raise RuntimeError(
                f"{self.images.name}: {len(found)} of {len(self.images.paths)} images have a label"
            )
        return found

    def truths(self) -> Callable[[str], np.ndarray]:
        """Gives an image's mask by its path."""
        paths = find_masks(self.images.masks, self.images.paths)
        return lambda name: read_label_map(paths[name])

    def write(self, variant: Variant, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a row."""
        found = {
            "set": self.images.name, "seed": self.seed, "row": variant.name, "recipe": self.recipe(variant),
            "images": len(self.images.paths), "classes": self.images.classes, "code": code_digest(),
            "machine": machine(), **figures,
        }  # fmt: skip
        write_json(self.row(variant), found)
        return found


@cache
def code_digest() -> str:
    """Of everything that makes a figure, as it was at first asking: rows of different code are no one table."""
    files = [
        path
        for folder in ("models", "tasks", "flows", "storage", "bench")
        for path in (ROOT / folder).glob("*.py")
    ]
    return digest_of([[path.name, digest(path)] for path in sorted(files)])


def machine() -> str:
    """Where seconds were measured."""
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


# -- what is measured -------------------------------------------------------------------------------------


def measure(site: Site, variant: Variant, console: Console) -> dict[str, Any]:
    """All figures of the labels that the store holds now."""
    items, truth = site.items(), site.truths()
    classes = Store.existing(site.store).classes()
    if classes != site.images.classes:
        raise RuntimeError(f"the store's classes are {classes}, those of the masks {site.images.classes}")
    versions = scores(site.store, site.images.masks, console).versions
    tally, thresholds = Tally(len(classes)), Thresholds(len(classes))
    score, has = np.zeros((len(items), len(classes)), np.float32), np.zeros((len(items), len(classes)), bool)
    for n, item in enumerate(track(items, "confidence", console=console, transient=True)):
        mask = truth(item.row.path)
        tally.add(mask, item.array("p"), item.array("confidence"))
        thresholds.add(int(item.row.sha256[-1], 16) % 2, mask, item.array("cam"), item.array("slot_class"))
        score[n] = item.array("score")
        has[n] = [name in item.row.labels for name in classes]
    versions["picked"] = thresholds.picked(classes) | {"images": len(items)}
    return {
        "versions": versions,
        "confidence": tally.figures(),
        "score": class_aurocs(score, has),
        "seconds": seconds(site, variant),
        "cost": cost(site, next((item for item in items if item.row.labels), items[0])),
    }


def seconds(site: Site, variant: Variant) -> dict[str, float]:
    """Seconds an image by stage, as its receipts have them, and by training, as far as this bench saw it."""
    store = Store.existing(site.store)
    plan = plan_of(store, stored_config(store))
    found = {}
    for name, receipts in plan.receipts.items():
        of_now = [receipt for block, receipt in receipts.items() if block in plan.blocks]
        images = sum(receipt.images for receipt in of_now)
        found[name] = sum(receipt.seconds for receipt in of_now) / max(1, images)
    clock = json.loads(site.clock.read_text()) if site.clock.is_file() else {}
    for kind, key in site.network_keys(variant).items():
        if key in clock:
            found[f"train_{kind}"] = clock[key] / len(site.images.paths)
    return found


def cost(site: Site, item: Labelled) -> dict[str, dict[str, float]]:
    """Parameters in millions and GFLOPs an image (all of its views) of each network, counted on one image.

    A multiplication and an addition are two operations. Of the two folds' fusion networks one counts.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    store = Store.existing(site.store)
    config = stored_config(store)
    found: dict[str, dict[str, float]] = {}
    for stage in stages():
        if stage.model is None or (stage.model == "start" and not config.train_vit.objectness):
            continue
        keywords: dict[str, Any] = {name: item.array(name)[None] for name in stage.inputs}
        keywords |= section(config, stage.config) | facts(config, stage.facts)
        model = load_model(store, config, stage.model)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            stage.function(**keywords, model=model, precision=precision_of(config))
        entry = found.setdefault(stage.model, {"params": 0.0, "gflops": 0.0})
        used = model.nets[0] if stage.model == "fusion" else model
        named = dict(used.named_parameters())
        if (
            stage.model == "vit" and keywords["guided"] and model.as_shipped
        ):  # a stage of its own asks its start
            named = {name: p for name, p in named.items() if not name.startswith("start.")}
        entry["params"] = sum(p.numel() for p in named.values()) / 1e6
        entry["gflops"] += counter.get_total_flops() / 1e9
    return found
