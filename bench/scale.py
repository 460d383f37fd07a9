"""How long planning and `status` take on a large store: simulated catalog and receipts, real everything else.

    python -m bench.scale --images 100000

It prints seconds and peak memory of each, measured in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from flows import recipes, training
from flows.config import build_config
from flows.networks import PROMOTED
from flows.plan import fingerprint
from flows.summary import plan_of, print_status
from storage.catalog import ImageRow, save
from storage.receipts import ArrayRecord, Receipt, now, seal
from storage.store import Store
from tasks.registry import stages
from tasks.stage import ModelKind, Stage

CLASSES = ("crack", "dent", "scratch")
BLOCK = 64
TRAINED: tuple[ModelKind, ...] = ("vit", "fusion")


def digest(*parts: object) -> str:
    """A sha256 that looks like any other."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def rows(images: int) -> list[ImageRow]:
    """A catalog of images that are all done."""
    return [
        ImageRow(
            id=n,
            path=f"{CLASSES[n % 3]}/{n:07d}.png",
            sha256=digest(n),
            width=512,
            height=512,
            labels=(CLASSES[n % 3],),
            annotation="",
            block=f"b{n // BLOCK:06d}",
            status="active",
            why="",
            bytes=300_000,
            modified=1,
        )
        for n in range(images)
    ]


def simulate(root: Path, images: int) -> Store:
    """A store whose every block of every stage is fresh. The receipts of a stage share one group of real files."""
    (root / "images").mkdir(parents=True)
    config = build_config({"data": {"folder": str(root / "images")}, "store": str(root / "store")}, "bench")
    store = Store(root / "store")
    store.objects.put("config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
    store.add_classes(CLASSES)
    save(store, rows(images))
    entry = {"classes": 3, "config": "", "data": {}, "made": now()}
    promoted = {kind: entry | {"digest": digest(kind)} for kind in TRAINED}
    store.write_json(PROMOTED, promoted)
    plan = plan_of(store, config)
    for stage in stages():
        template = _template(store, stage)
        folder = store.root / "receipts" / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        for block in plan.blocks:
            receipt = _receipt(template, block, plan.reasons(stage, block) or {})
            plan.update(receipt)
            (folder / f"{block}.json").write_bytes(seal(receipt))
    for kind in TRAINED:
        record = {
            "config": recipes.recipe_digest(config, kind),
            "data": training.data_record(store, plan, kind),
        }
        promoted[kind] |= record
    store.write_json(PROMOTED, promoted)
    for stage in stages():
        store.write_index(stage.name)
    return store


def _template(store: Store, stage: Stage) -> Receipt:
    """A stage's real group of one tiny block, that all its receipts name."""
    values = {spec.name: np.zeros((1,) * len(spec.dims), spec.dtype) for spec in stage.writes}
    receipt = store.commit(
        stage.name, "template", "t", stage.writes, values, reasons={}, attributes={}, failed={}, seconds=1
    )
    store.objects.delete(f"receipts/{stage.name}/template.json")
    return receipt


def _receipt(template: Receipt, block: str, reasons: dict[str, str]) -> Receipt:
    arrays = {
        name: ArrayRecord(digest=digest(template.stage, block, name), shape=record.shape, dtype=record.dtype)
        for name, record in template.arrays.items()
    }
    given = {"block": block, "reasons": reasons, "fingerprint": fingerprint(reasons), "arrays": arrays}
    return template.model_copy(update=given | {"images": BLOCK, "made": now()})


def measure(root: Path, what: str) -> dict[str, float]:
    """Seconds and peak memory of planning or `status`, from the start of this process's work."""
    from rich.console import Console

    store = Store.existing(root)
    started = time.perf_counter()
    if what == "status":
        print_status(root, Console(stderr=True))
    else:
        from flows.summary import stored_config

        config = stored_config(store)
        plan = plan_of(store, config)
        todo = sum(len(plan.todo(stage)) for stage in stages())
        trained = [kind for kind in TRAINED if training.decide(store, config, plan, kind).train]
        if todo or trained:
            raise RuntimeError(f"{todo} blocks and the networks {trained} are stale in a store made fresh")
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "cpu": time.process_time(),
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def run_measured(root: Path, what: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "bench.scale", "--measure", what, "--root", str(root)]
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if result.returncode:
        raise RuntimeError(result.stderr)
    found: dict[str, float] = json.loads(result.stdout)
    return found | {"with_start": time.perf_counter() - started}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--measure", choices=["plan", "status"])
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.root, given.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(Path(folder), given.images)
        for what in ("plan", "status"):
            found = run_measured(store.root, what)
            print(
                f"{given.images} images, {what:<6}: {found['seconds']:5.1f} s "
                f"({found['with_start']:.1f} s with the start of Python, {found['cpu']:.1f} s of CPU), {found['gb']:.2f} GB"
            )


if __name__ == "__main__":
    main()
