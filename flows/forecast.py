"""What a run would do, and why, before it does it: nothing is written."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import training
from flows.config import Config, load_config
from flows.estimate import TRIED, estimate
from flows.progress import bars
from flows.steps import Run, is_noted
from flows.summary import called, plan_of, print_problems, stored_config
from models.sam_shapes import embedding_shape, input_side
from storage.store import Store
from tasks.registry import stages
from tasks.stage import ModelKind, Stage


def print_plan(config: Path, console: Console, progress: Console) -> None:
    """Print what `bluemask run` would do with a config now: every step, its images, its reasons, its cost."""
    settings = load_config(config)
    store = Store(settings.store)
    with bars(progress) as shown:
        run = Run(store, settings, shown, dry=True)
    _print_changes(run, console)
    table = Table(
        "step", "blocks", "images", "why", "minutes", "GB", title=f"{store.name}: what a run would do"
    )
    trained = False
    for step in run.steps():
        if isinstance(step, Stage):
            _stage_row(table, run, step)
        else:
            decision = run.foreseen(step)
            trained |= decision.train
            if decision.train:
                _training_row(table, run, step, decision.why)
    if table.row_count:
        console.print(table)
        console.print(
            "[dim]At most, but for trainings: a block whose content comes out the same stops what reads it from being redone.[/]"
        )
        if trained:
            console.print(
                "[dim]A training's time is about what the last one's parts make of it; it ends early where nothing improves "
                "any more.[/]"
            )
            console.print(
                "[dim]Once a network is trained, all images are done anew by what it serves: train_vit's by cam, prompt, mask, "
                "ensemble and fuse, train_fusion's by fuse.[/]"
            )
        console.print(f"[dim]{_keeping(settings, run)}[/]")
    else:
        console.print("[green]nothing to do:[/] every stage is fresh")
        if not is_noted(store, settings) and _is_stale(store):
            console.print(
                f"[yellow]`status`, `browse` and `export` take these labels for outdated[/]: they go by the config of the store's "
                f"last run, which is another one. `bluemask run {escape(str(config))}` makes this one the store's again, in seconds",
                highlight=False,
                soft_wrap=True,
            )


def _is_stale(store: Store) -> bool:
    """Whether anything is to be made anew by the config of the store's last run."""
    plan = plan_of(store, stored_config(store))
    return any(plan.todo(stage) for stage in stages())


def _print_changes(run: Run, console: Console) -> None:
    for name, paths in vars(run.catalogue.changes).items():
        if paths:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            console.print(
                f"{len(paths)} {called(name)}: {', '.join(paths[:3])}{more}", highlight=False, markup=False
            )
    print_problems(run.catalogue.problems, console)


def _stage_row(table: Table, run: Run, stage: Stage) -> None:
    blocks = run.todo(stage)
    if not blocks:
        return
    images = sum(len(run.plan.blocks[block]) for block in blocks)
    reasons = Counter(run.plan.why(stage, block) for block in blocks)
    why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    found = estimate(run.plan, {}, lambda other: blocks if other is stage else [])
    size = _written(run, stage) or found.disk / images
    seconds = found.seconds.get(stage.name)
    minutes = "told as a run starts" if seconds is None and stage.name == TRIED else _minutes(seconds)
    table.add_row(stage.name, str(len(blocks)), str(images), why, minutes, f"{images * size / 1e9:.2f}")


def _training_row(table: Table, run: Run, kind: ModelKind, why: str) -> None:
    images = sum(1 for _ in training.members(run.plan, kind, foreseen=True))
    seconds = training.seconds_of(run.store, run.config, run.plan, kind)
    about = "" if seconds is None else "about "
    table.add_row(f"train_{kind}", "", str(images), escape(why), about + _minutes(seconds), "")


def _minutes(seconds: float | None) -> str:
    return "not measured yet" if seconds is None else f"{seconds / 60:.1f}"


def _written(run: Run, stage: Stage) -> float | None:
    """Bytes an image, as the store's receipts have them; None where there is none."""
    receipts = run.plan.receipts[stage.name].values()
    images = sum(receipt.images for receipt in receipts)
    written = sum(record.size for receipt in receipts for record in receipt.files.values())
    return written / images if images else None


def _keeping(config: Config, run: Run) -> str:
    """What the two large arrays take on disk, before compression."""
    images = sum(row.status == "active" for row in run.catalogue.rows)
    views, side = config.augment.views, input_side(config.sam.model)
    augmented = images * views * side * side * 3
    embedding = images * views * 2 * math.prod(embedding_shape(config.sam.model))
    return (
        f"keep.augmented takes up to {augmented / 1e9:.2f} GB, keep.embedding up to {embedding / 1e9:.2f} GB"
    )
