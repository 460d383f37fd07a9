"""Looking after a store between runs: verify and repair, prune, roll back, and what a run would do."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from flows.config import Config
from flows.execute import BlockError, Job
from flows.networks import PROMOTED, TRAINED
from flows.promotion import rollback
from flows.summary import plan_of, stored_config
from storage.catalog import live_blocks, load
from storage.damage import forget_mended, note
from storage.lock import reviews_lock
from storage.prune import Pruning, prune
from storage.store import Store, StoreError
from storage.verify import Finding, verify
from tasks.registry import stages, writer
from viewer.words import so_many

LISTED = 30
"""Most findings that are written out; the rest is counted."""


# -- verify and repair ------------------------------------------------------------------------------------


def verify_store(root: Path, console: Console, *, repair: bool) -> int:
    """Print all damage, and make it whole where that is asked for. Returns the exit status: 0 sound, 1 not."""
    store = Store(root)
    if repair:
        with store.writing():
            store.objects.sweep()
            found, left = mend(store)
            status = _report(store, console, found, left)
            _tell_of_history(console, found)
            if len(left) < len(found):
                _renew_report(store, console)
            return status
    found = list(verify(store))
    if not found:
        _refuse_no_store(store)
    status = _report(store, console, found, None)
    if found:
        again = "; so does the next `bluemask run`" if _remember(store, found) else ""
        console.print(
            f"`bluemask verify {store.name} --repair` mends it{again}", highlight=False, soft_wrap=True
        )
    return status


def _tell_of_history(console: Console, found: list[Finding]) -> None:
    """What a repair cannot bring back: the labels that the present ones were compared with."""
    lost = {finding.block for finding in found if finding.kind == "history"}
    if lost:
        console.print(
            f"{so_many(len(lost), 'blocks')} without the arrays before the present ones: which labels changed there last night "
            "is not known any more",
            highlight=False,
            soft_wrap=True,
        )


def _remember(store: Store, found: list[Finding]) -> bool:
    """Note which blocks are damaged: `status` tells it, and the next run mends them. Returns whether that is all there is."""
    noted = []
    for finding in found:
        receipt = store.receipt(finding.stage, finding.block) if finding.kind == "array" else None
        if receipt is not None and finding.key.startswith(f"{receipt.group}/"):
            name = finding.key.removeprefix(f"{receipt.group}/").split("/")[0]
            noted.append(note(store.objects, receipt, name))
        else:
            noted.append(False)
    return all(noted)


def _renew_report(store: Store, console: Console) -> None:
    """Write the browser report anew where there is one: its pictures may have shown the damage."""
    from flows.report import NAME, report_of_run  # the page's libraries are loaded where they are wanted

    if store.local and (store.root / NAME).is_file():
        console.print(report_of_run(store.root), highlight=False, markup=False, soft_wrap=True)


def _refuse_no_store(store: Store) -> None:
    if store.objects.get("catalog.parquet") is None:
        raise StoreError(f"{store.name} is no bluemask store (it has no catalog.parquet)")


def _report(store: Store, console: Console, found: list[Finding], left: list[Finding] | None) -> int:
    shown = found if left is None else left
    for finding in shown[:LISTED]:
        console.print(f"{finding.kind} {finding.key}: {finding.why}", highlight=False, markup=False)
    if len(shown) > LISTED:
        console.print(f"and {len(shown) - LISTED} more")
    if left is not None:
        console.print(f"{len(found)} damaged, {len(found) - len(left)} repaired, {len(left)} not")
    elif found:
        console.print(f"{len(found)} damaged")
    else:
        console.print(f"[green]sound:[/] every byte of {store.name} is what was written", highlight=False)
    return 1 if shown else 0


def mend(store: Store) -> tuple[list[Finding], list[Finding]]:
    """Repair a store whose lock the caller holds. Returns what was damaged, and what of it could not be made whole."""
    found = list(verify(store))
    if not found:
        _refuse_no_store(store)
    for finding in found:
        if finding.kind == "document":
            _mend_document(store, finding.key)
        elif finding.kind == "checkpoint":
            _mend_checkpoint(store, finding.key)
        elif finding.kind in ("history", "note"):
            _forget(store, finding)
    damaged = {(f.stage, f.block) for f in found if f.kind in ("receipt", "array")}
    said = _redo(store, damaged) if damaged else {}
    forget_mended(store)
    left = [
        Finding(f.kind, f.key, f"{f.why}; {said[f.block]}" if f.block in said else f.why, f.stage, f.block)
        for f in verify(store)
    ]
    return found, left


def _mend_document(store: Store, key: str) -> None:
    """From its copy; of a review only what is still damaged once nobody is saving it."""
    saved = key.startswith("reviews/") and store.local
    with reviews_lock(store.root) if saved else nullcontext():
        if store.documents.faults(key):
            store.documents.repair(key)


def _mend_checkpoint(store: Store, key: str) -> None:
    """From its copy, or the copy from it; where both are damaged the next run trains anew."""
    name = key.rsplit("/", 1)[-1]
    other = f"copies/checkpoints/{name}" if key.startswith("checkpoints/") else f"checkpoints/{name}"
    data = store.objects.get(other)
    if data is not None:
        store.put(key, data)


def _forget(store: Store, finding: Finding) -> None:
    """History and notes are not made anew: they go."""
    if finding.kind == "history":
        previous = store.previous(finding.stage, finding.block)
        store.delete(f"receipts/{finding.stage}/{finding.block}.prev.json")
        present = store.receipt(finding.stage, finding.block)
        if previous is not None and (present is None or previous.group != present.group):
            store.delete(previous.group)
    else:
        store.delete(finding.key)


def _redo(store: Store, damaged: set[tuple[str, str]]) -> dict[str, str]:
    """Make damaged blocks anew, and what follows where its content changed; gives what went wrong by block."""
    plan = plan_of(store, stored_config(store))
    said: dict[str, str] = {}
    for name, block in damaged:
        if block in plan.blocks:
            plan.force(name, [block])
        else:  # no live image: nobody reads it any more
            for ending in ("json", "prev.json", "failed.json"):  # first: a receipt names nothing that is gone
                store.delete(f"receipts/{name}/{block}.{ending}")
            store.delete(f"arrays/{name}/{block}")
    job = Job(store, plan.config, plan, lambda stage, images: None)
    for stage in stages():
        for block in sorted({block for _, block in damaged} & plan.blocks.keys()):
            try:
                if block not in said and not plan.fresh(stage, block):
                    job.run(stage, block)
            except BlockError as error:
                said[block] = str(error)
    return said


# -- prune ------------------------------------------------------------------------------------------------


def prune_store(
    store: Store, config: Config, *, nights: int | None, quota_gb: float | None, dry: bool
) -> Pruning:
    """Free space by the config's retention, or by the values given. The caller holds the lock, unless `dry`."""
    rules = config.retention
    most = rules.quota_gb if quota_gb is None else quota_gb
    promoted = store.read_json(PROMOTED) or {}
    entries = [promoted.get(kind) or {} for kind in ("vit", "fusion")]
    entries += [entry.get("before") or {} for entry in entries]
    return prune(
        store,
        nights=rules.nights if nights is None else nights,
        quota=None if most is None else most * 1e9,
        live=live_blocks(load(store)),
        checkpoints={entry["digest"] for entry in entries if entry},
        droppable=[(writer(name).name, name) for name in type(config.keep).model_fields],
        dry=dry,
    )


def print_pruning(
    root: Path, console: Console, *, nights: int | None, quota_gb: float | None, dry: bool
) -> int:
    """What `bluemask prune` does. Returns the exit status: 1 where the quota is not met."""
    store = Store.existing(root)
    config = stored_config(store)
    if dry:
        work = prune_store(store, config, nights=nights, quota_gb=quota_gb, dry=True)
    else:
        with store.writing():
            store.objects.sweep()
            work = prune_store(store, config, nights=nights, quota_gb=quota_gb, dry=False)
    reasons: dict[str, list[int]] = {}
    for size, why in work.freed.values():
        reasons.setdefault(why, []).append(size)
    for why, sizes in reasons.items():
        console.print(f"{len(sizes)} × {why}: {sum(sizes) / 1e6:.1f} MB", highlight=False)
    verb = "would be freed" if dry else "freed"
    console.print(f"{work.bytes / 1e6:.1f} MB {verb}, {work.left / 1e6:.1f} MB left", highlight=False)
    most = config.retention.quota_gb if quota_gb is None else quota_gb
    if most is not None and work.left > most * 1e9:
        console.print(
            f"[red]the quota of {most:g} GB is not met[/]: what is left are labels and what they come from"
        )
        return 1
    return 0


# -- rollback ---------------------------------------------------------------------------------------------


def roll_back(root: Path, network: str, console: Console) -> None:
    """What `bluemask rollback` does. Raises StoreError for a network that is not trained here."""
    kind = next((kind for kind in TRAINED if kind == network), None)
    if kind is None:
        raise StoreError(f"{network!r} is no network that is trained here; there are: {', '.join(TRAINED)}")
    store = Store.existing(root)
    with store.writing():
        console.print(rollback(store, stored_config(store), kind), highlight=False)
    console.print("the next run makes what depends on it from it")
