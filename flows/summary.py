"""What a run did and how a store stands, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.catalogue import RANGE
from flows.config import Config, build_config
from flows.networks import TRAINED, model_digest, pinned, promoted
from flows.outcome import LISTED, Summary
from flows.plan import Plan
from flows.underway import words_of
from storage.catalog import load
from storage.damage import advice, damages
from storage.store import Store
from tasks.registry import stages
from viewer.words import of_so_many, so_many


def print_summary(summary: Summary, console: Console) -> None:
    """The closing words of a run: what was done, what was not, and how to go on."""
    active = sum(row.status == "active" for row in summary.catalogue.rows)
    changes = summary.catalogue.changes
    counts = [f"{len(paths)} {called(name)}" for name, paths in vars(changes).items() if paths]
    console.print(
        so_many(active, "images")
        + (f" ({', '.join(counts)})" if counts else ", no file or label of them changed")
    )
    print_problems(summary.catalogue.problems, console)
    if summary.idle:
        console.print("[green]nothing to do:[/] every stage is fresh")
    else:
        console.print(_table(summary))
    _print_notes(summary, console)
    _print_contradictions(summary, console)
    _print_faults(summary, console)


def called(change: str) -> str:
    """What a kind of change in the image folder is called: marks count as labels there."""
    return "relabelled or newly marked" if change == "relabelled" else change


def print_problems(problems: Iterable[str], console: Console) -> None:
    """What was passed over or does not fit, a line each."""
    for problem in problems:
        console.print(f"[yellow]note[/] {escape(problem)}", highlight=False, soft_wrap=True)


def _table(summary: Summary) -> Table:
    table = Table("step", title="done in this run", title_justify="left")
    for name in ("blocks", "images", "seconds", "images/s"):
        table.add_column(name, justify="right")
    for name, blocks in summary.done.items():
        images, seconds = summary.images[name], summary.seconds[name]
        table.add_row(name, str(blocks), str(images), f"{seconds:.1f}", f"{images / max(seconds, 1e-3):.1f}")
    table.add_section()
    table.add_row("all", "", "", f"{sum(summary.seconds.values()):.1f}", "")
    said = [f"peak memory {summary.peak_gb:.1f} GB"]
    if summary.compared:  # a first run has nothing to compare with
        said.insert(0, f"label maps changed: {summary.changed} of {summary.compared}")
    table.caption = "\n".join(said)
    return table


def _print_notes(summary: Summary, console: Console) -> None:
    for note in summary.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)  # commands in it are there to be copied


def _print_contradictions(summary: Summary, console: Console) -> None:
    if summary.contradictions:
        console.print(
            f"[yellow]{so_many(summary.contradictions, 'labels')} that the classifier contradicts[/]"
        )
        for words in summary.contradicted:
            console.print(f"  {words}", highlight=False, markup=False)
        if summary.contradictions > len(summary.contradicted):
            console.print(f"  and {summary.contradictions - len(summary.contradicted)} more")


def _print_faults(summary: Summary, console: Console) -> None:
    bad = {row.path: row.why for row in summary.quarantined} | summary.failed_images
    fired = {f"alert {n}": text for n, text in enumerate(summary.alerts, start=1)}
    for title, items in (
        ("quarantined: unreadable, or with marks that do not fit", bad),
        ("failed", summary.failures),
        ("alerts", fired),
    ):
        if items:
            console.print(f"[red]{len(items)} {of_so_many(title, len(items))}[/]")
            for name, why in list(items.items())[:LISTED]:
                console.print(f"  {name}: {why}", highlight=False, markup=False)
            if len(items) > LISTED:
                console.print(f"  and {len(items) - LISTED} more: bluemask status STORE")
    if summary.failures:
        console.print("run the same command again: it goes on where this run failed")


def stored_config(store: Store) -> Config:
    """The config of the store's last run, with absolute paths; of a copy or a moved store it names the place where that is now."""
    data = store.documents.read("config.yaml")
    if data is None:
        raise FileNotFoundError(f"{store.name}/config.yaml is missing; `bluemask run CONFIG` writes it")
    here = {"store": str(store.root.resolve())} if store.local else {}
    return build_config(yaml.safe_load(data) | here, f"{store.name}/config.yaml")


def plan_of(store: Store, config: Config) -> Plan:
    """The state of a store as its catalog and receipts have it; the image folder is not looked at."""
    fixed = config.data.value_range or store.read_json(RANGE)
    value_range = None if fixed is None else (int(fixed[0]), int(fixed[1]))
    return Plan.of(store, config, load(store), value_range, partial(model_digest, store, config))


def print_status(root: Path, console: Console) -> None:
    """Who is writing; stage × blocks: fresh, stale, failed, missing, and why; the networks; images without a label."""
    store = Store.existing(root)
    config = stored_config(store)
    plan = plan_of(store, config)
    console.print(
        words_of(store, plan) or "no run is under way", highlight=False, markup=False, soft_wrap=True
    )
    table = Table(
        "stage",
        "fresh",
        "stale",
        "failed",
        "missing",
        "why",
        title=f"{root}: {so_many(len(plan.blocks), 'blocks')}",
    )
    for stage, counts in plan.table().items():
        todo = [item for item in stages() if item.name == stage]
        blocks = plan.todo(todo[0])
        harmed = [block for name, block in plan.damaged if name == stage]
        why = plan.why(todo[0], blocks[0]) if blocks else "damaged, see below" if harmed else ""
        cells = [str(counts[state] or "·") for state in ("fresh", "stale", "failed", "missing")]
        table.add_row(stage, *cells, why)
    console.print(table)
    _print_networks(store, config, console)
    _print_images(store, plan, console)


def _print_networks(store: Store, config: Config, console: Console) -> None:
    """Which trained networks are in use, from how many images, and how to take one back."""
    for kind in TRAINED:
        path, entry = pinned(config, kind), promoted(store, kind)
        if path is not None:
            text = f"{path} (config: train_{kind}.checkpoint)"
        elif entry is None:
            text = "not trained yet; `bluemask run` does it"
        else:
            text = f"{entry['digest'][:12]}, made {entry['made']} from a set of {so_many(len(entry['data']), 'images')}"
            if entry.get("before"):
                text += f"; `bluemask rollback {store.name} {kind}` puts {entry['before']['digest'][:12]} back in its place"
        console.print(f"{kind} network: {text}", highlight=False, markup=False, soft_wrap=True)


def _print_images(store: Store, plan: Plan, console: Console) -> None:
    by_status = {
        name: [row for row in plan.rows if row.status == name]
        for name in ("active", "retired", "quarantined")
    }
    console.print(", ".join(f"{len(rows)} {name}" for name, rows in by_status.items()))
    for row in by_status["quarantined"]:
        console.print(f"  quarantined {row.path}: {row.why}", highlight=False, markup=False)
    for block, receipt in plan.receipts["ingest"].items():
        for row in plan.blocks.get(block, []):
            if row.status == "active" and row.id in receipt.failed:
                console.print(
                    f"  no label {row.path}: {receipt.failed[row.id]}", highlight=False, markup=False
                )
    for stage in stages():
        for block, failure in store.failures(stage.name).items():
            console.print(f"  failed {stage.name} {block}: {failure.error}", highlight=False, markup=False)
    for damage in damages(store):
        if damage.block in plan.blocks:
            told = f"  {damage.words}; {advice(store.name)}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
