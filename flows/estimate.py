"""What a run will cost in disk, time and memory, said before it starts; a disk that is too small stops it there."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from flows import training
from flows.config import Config
from flows.networks import TRAINED, load_model, precision_of
from flows.plan import Plan, unkept
from models.sam_shapes import embedding_shape, input_side
from storage.arrays import PIECE, ArraySpec
from storage.catalog import ImageRow
from storage.receipts import Receipt
from storage.store import Store, StoreError
from tasks.registry import stage, stages
from tasks.stage import ModelKind, Stage

if TYPE_CHECKING:
    from flows.steps import Run

RATIOS = {"label map": 0.2, "vote": 0.2, "flag": 1.0}
"""Share of its bytes that an array takes on disk at most, by kind; others may not shrink at all."""
BASE = 1.2e9
"""Memory of the process with its libraries and networks of a hundred megabytes."""
TRAINING = 0.8e9
"""What a training takes beyond that: the demo's took 1.7 to 2.3 GB in all."""
MARGIN = 1.05
"""What the disk must have beyond the estimate: receipts, checkpoints, folders."""
TRIED = "embed"
"""The stage of which a run tries one view before it starts, where the store does not know its time."""
Lengths = Mapping[str, int]


@dataclass(frozen=True)
class Estimate:
    """Cost of what there is to do.

    disk: bytes to be written; memory: bytes at the most; seconds: by stage and training (`train_vit`), as this store's
    own receipts, its last trainings and a trial of SAM have them; unknown: stages and trainings that were never timed
    here; trainings: that are foreseen.
    """

    disk: float = 0
    memory: float = 0
    seconds: dict[str, float] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    trainings: tuple[ModelKind, ...] = ()


def announce(run: Run, console: Console) -> None:
    """Say what a run will cost. Raises StoreError where the disk has not that much left."""
    store = run.store
    found = whole_estimate(run, trial_seconds(run))
    if not store.local:
        console.print(f"estimate: at most {found.disk / 1e9:.2f} GB in {store.name}", highlight=False)
        return
    refuse_full_disk(run, found)
    free = shutil.disk_usage(store.root).free
    about = {f"train_{kind}": "about " for kind in found.trainings}
    known = ", ".join(
        f"{name} {about.get(name, '')}{_duration(seconds)}" for name, seconds in found.seconds.items()
    )
    rest = f"; not measured yet: {', '.join(found.unknown)}" if found.unknown else ""
    if found.trainings:
        rest += "; what the networks trained make anew comes on top"
    console.print(
        f"estimate: at most {found.disk / 1e9:.2f} GB of {free / 1e9:.0f} GB free on disk, "
        f"about {found.memory / 1e9:.1f} GB of memory; time: {known or 'unknown'}{rest}",
        highlight=False,
    )


def refuse_full_disk(run: Run, found: Estimate | None = None) -> None:
    """Raises StoreError where a run would write more than its disk has left; an object store has no such end.

    found: the run's estimate; None makes one, without a trial.
    """
    if run.store.local:
        needed = (found or whole_estimate(run, {})).disk
        refuse_small_disk(needed, shutil.disk_usage(run.store.root).free, run.store, run.config)


def refuse_small_disk(needed: float, free: float, store: Store, config: Config) -> None:
    """Raises StoreError, with the remedy, where a run would write more than there is room for."""
    if needed * MARGIN <= free:
        return
    kept = [name for name, wanted in config.keep.model_dump().items() if wanted]
    remedy = f"free some, or set keep.{kept[-1]}: false" if kept else "free some"
    raise StoreError(
        f"{store.root}: the run would write up to {needed / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB left; "
        f"{remedy}; nothing was started"
    )


def whole_estimate(run: Run, trial: Mapping[str, float]) -> Estimate:
    """The cost of all that a run has to do: what a training lays by as long as it takes counts as disk, too."""
    found = estimate(run.plan, trial, run.todo)
    kinds = tuple(kind for kind in TRAINED if run.foreseen(kind).train)
    passing = max((passing_bytes(run.plan, kind) for kind in kinds), default=0)
    memory = max(found.memory, BASE + TRAINING) if kinds else found.memory
    taking = {f"train_{kind}": training.seconds_of(run.store, run.config, run.plan, kind) for kind in kinds}
    known = {name: seconds for name, seconds in taking.items() if seconds is not None}
    return replace(
        found,
        disk=found.disk + passing,
        memory=memory,
        seconds=found.seconds | known,
        unknown=(*found.unknown, *(name for name in taking if name not in known)),
        trainings=kinds,
    )


def passing_bytes(plan: Plan, kind: ModelKind) -> float:
    """Most that a training's temporary file takes (`models.spool`)."""
    rows = [row for block in plan.blocks.values() for row in block if row.status == "active"]
    if kind == "vit":  # an image at the network's size, and its objectness in float32
        return sum(7 * min(row.height * row.width, plan.config.train_vit.side**2) for row in rows)
    config, (d, h, w) = plan.config.train_fusion, embedding_shape(plan.config.sam.model)
    patches, lessons = config.crops * config.crop**2 * 14, 2.5 * d * h * w
    return sum(min(config.patches_mb * 1e6, len(rows) * each) for each in (patches, lessons))


def estimate(
    plan: Plan, trial: Mapping[str, float], todo_of: Callable[[Stage], list[str]] | None = None
) -> Estimate:
    """The cost of every stale block.

    trial: seconds an image that were measured just now, by stage; they count where a stage has no receipt.
    todo_of: gives the blocks that a stage is to do; None is all that are stale.
    """
    disk, largest = 0.0, 0.0
    seconds: dict[str, float] = {}
    unknown = []
    for step in stages():
        todo = (todo_of or plan.todo)(step)
        if not todo:
            continue
        sizes = [block_bytes(plan, step, plan.blocks[block]) for block in todo]
        disk += sum(size.on_disk for size in sizes)
        largest = max(largest, max(size.in_memory for size in sizes))
        images = sum(len(plan.blocks[block]) for block in todo)
        each = seconds_each(plan, step) or trial.get(step.name)
        if each is None:
            unknown.append(step.name)
        else:
            seconds[step.name] = images * each
    return Estimate(disk, BASE + 2 * largest, seconds, tuple(unknown))


@dataclass(frozen=True)
class Bytes:
    """What a stage writes of a block, and what it holds of it, inputs and outputs."""

    on_disk: float
    in_memory: float


def block_bytes(plan: Plan, stage: Stage, rows: Sequence[ImageRow]) -> Bytes:
    """Bytes of a block's arrays, from their declarations and the catalog; on disk not more than that."""
    lengths = _lengths(plan, rows)
    dropped = unkept(plan.config, stage)
    written = {spec.name: array_bytes(spec, lengths) for spec in stage.writes}
    kept = [spec for spec in stage.writes if spec.name not in dropped]
    on_disk = sum(written[spec.name] * RATIOS.get(spec.kind, 1.0) for spec in kept)
    read = sum(
        _read_bytes(plan, stage, other, spec, lengths, rows[0].block)
        for other in stages()
        for spec in other.writes
        if spec.name in stage.inputs
    )
    return Bytes(on_disk, sum(written.values()) + read)


def _read_bytes(
    plan: Plan, stage: Stage, source: Stage, spec: ArraySpec, lengths: Lengths, block: str
) -> int:
    """What a stage holds of an array that it reads: of a kept one that it takes an image at a time, a few shards.

    Measured with embeddings of `vit_b`: two shards, and what zarr holds on the way, come to 4.
    """
    size, receipt = array_bytes(spec, lengths), plan.receipts[source.name].get(block)
    dropped = spec.name in unkept(plan.config, source) or (
        receipt is not None and spec.name in receipt.dropped
    )
    streamed = spec.name in stage.streamed and not dropped
    return min(size, 4 * max(PIECE, size // lengths["image"])) if streamed else size


def array_bytes(spec: ArraySpec, lengths: Lengths) -> int:
    """Bytes of an array in memory."""
    return spec.itemsize * math.prod(lengths.get(dim, 4) for dim in spec.dims)


def _lengths(plan: Plan, rows: Sequence[ImageRow]) -> dict[str, int]:
    config = plan.config
    d, h, w = embedding_shape(config.sam.model)
    side = input_side(config.sam.model)
    return {
        "image": len(rows),
        "y": max(row.height for row in rows),
        "x": max(row.width for row in rows),
        "channel": 3,
        "class": max(1, len(plan.classes)),
        "slot": max(1, *(len(row.labels) for row in rows)),
        "view": config.augment.views,
        "ty": side,
        "tx": side,
        "piece": config.prompt.pieces,
        "point": config.prompt.positives + config.prompt.negatives,
        "byte": 32,
        "d": d,
        "h": h,
        "w": w,
    }


def seconds_each(plan: Plan, stage: Stage) -> float | None:
    """Seconds an image as the store's receipts have them; None where there is none.

    What another SAM took says nothing of this one; a ViT or fusion network that was trained anew is as quick as before.
    """
    sam = plan.network("sam") if stage.model == "sam" else None
    done: list[Receipt] = [
        receipt for receipt in plan.receipts[stage.name].values() if receipt.reasons.get("model sam") == sam
    ]
    images = sum(receipt.images for receipt in done)
    return sum(receipt.seconds for receipt in done) / images if images else None


def trial_seconds(run: Run) -> dict[str, float]:
    """Seconds an image for SAM's encoder, by encoding one grey view; nothing where it is known or not needed.

    So a checkpoint that cannot be used is refused before the run, too.
    """
    embed, config = stage(TRIED), run.config
    if not run.todo(embed):
        return {}
    from models.sam import encode

    sam, side = load_model(run.store, config, "sam"), input_side(config.sam.model)
    if seconds_each(run.plan, embed) is not None:
        return {}
    grey = np.full((1, side, side, 3), 128, np.uint8)
    started = time.perf_counter()
    encode(sam, grey, np.full((1, 2), side), precision_of(config))
    return {embed.name: config.augment.views * (time.perf_counter() - started)}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
