"""Whether a trained network takes the place of the one before, and how that is taken back. No mask is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.config import Config
from flows.networks import PROMOTED, load_network, model_digest, pinned, precision_of, promoted
from flows.plan import Plan, facts, section
from models.checkpoints import digest
from models.telling import Report
from storage.receipts import now
from storage.store import Store, StoreError
from tasks.candidate import cam_figures, fusion_figures
from tasks.ingest import unusable
from tasks.registry import stages, writer
from tasks.stage import ModelKind, Stage

FIGURES: dict[str, Callable[..., dict[str, float]]] = {"vit": cam_figures, "fusion": fusion_figures}
"""Figures of merit by network, each a share in [0, 1] of which more is better."""
EXTRA: dict[str, tuple[str, ...]] = {"vit": (), "fusion": ("p1", "p2")}
"""Arrays that the figures need beyond what the stage reads."""
DECLINED = 20
"""Refusals that are remembered of a network: older ones are of images and configs long gone."""


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate, and from which figures."""

    good: bool
    why: str
    figures: dict[str, float] = field(default_factory=dict)


def judge(
    store: Store, config: Config, plan: Plan, kind: ModelKind, candidate: Path, report: Report | None = None
) -> Verdict:
    """Compare a candidate with the promoted network on the same images of the store; report: called after some of them."""
    networks, why = judged(store, config, plan, kind)
    if networks == 0:
        return Verdict(True, why)
    after, entry = (
        _figures(store, config, plan, kind, digest(candidate), candidate, report),
        promoted(store, kind),
    )
    if networks == 1 or entry is None:
        return Verdict(True, why, after)
    before = _figures(store, config, plan, kind, entry["digest"], None, report)
    return compare(before, after, config.retrain.tolerance)


def judged(store: Store, config: Config, plan: Plan, kind: ModelKind) -> tuple[int, str]:
    """How many networks `judge` looks at (none, the new one, or the one before, too), and why it looks at no more."""
    if config.retrain.promote == "always":
        return 0, "retrain.promote = 'always'"
    entry = promoted(store, kind)
    why = "there was none before" if entry is None else outdated(entry, plan, kind)
    return (1, why) if why else (2, "")


def outdated(entry: dict[str, Any], plan: Plan, kind: ModelKind) -> str:
    """Why a promoted network can serve no more, whatever its figures; empty where it can."""
    if entry["classes"] < len(plan.classes) and kind == "vit":
        return "there are new classes"
    # whose features mean nothing to it
    return "SAM is another one" if another_sam(entry, plan) else ""


def another_sam(entry: dict[str, Any], plan: Plan) -> bool:
    """Whether a promoted network learned from the features of another SAM than the one in use."""
    return "sam" in entry and entry["sam"] != plan.network("sam")


def compare(before: dict[str, float], after: dict[str, float], tolerance: float) -> Verdict:
    """Good where no figure falls by more than `tolerance`, a share in [0, 1]."""
    worse = [name for name in before if after[name] < before[name] - tolerance]
    shown = ", ".join(f"{name} {before[name]:.3f} → {after[name]:.3f}" for name in worse or before)
    return Verdict(not worse, shown if not worse else f"worse by more than {tolerance:g}: {shown}", after)


def _figures(
    store: Store,
    config: Config,
    plan: Plan,
    kind: ModelKind,
    key: str,
    path: Path | None,
    report: Report | None,
) -> dict[str, float]:
    """A network's figures, the mean over the images of some blocks. path: of a candidate, None: the promoted one."""
    import torch

    stage = next(stage for stage in stages() if stage.model == kind)
    model = load_network(store, config, kind, key, path)
    sums: dict[str, float] = {}
    images, sample = 0, list(_sample(config, plan, kind, stage))
    total, unit = sum(len(live) for _, live in sample), "images judged" if path else "images judged as before"
    for block, live in sample:
        if report is not None:
            report(images, total, math.nan, unit)
        given = {name: _array(store, plan, name, block) for name in (*stage.inputs, *EXTRA[kind])}
        keywords = {name: given[name] for name in stage.inputs}
        keywords |= section(config, stage.config) | facts(config, stage.facts)
        with torch.inference_mode():
            made = stage.function(**keywords, model=model, precision=precision_of(config))
        for name, value in FIGURES[kind](live, **given, **made).items():
            sums[name] = sums.get(name, 0.0) + value * len(live)
        images += len(live)
    if report is not None:
        report(images, total, math.nan, unit)
    return {name: value / max(images, 1) for name, value in sums.items()}


def _array(store: Store, plan: Plan, name: str, block: str) -> Any:
    return store.read(plan.receipts[writer(name).name][block], name)


def _sample(config: Config, plan: Plan, kind: ModelKind, stage: Stage) -> Iterator[tuple[str, list[int]]]:
    """Blocks spread over the set, with the places of their live images, up to `retrain.check_images`."""
    names = (*stage.inputs, *EXTRA[kind])
    ready = [b for b in plan.blocks if all(plan.fresh(writer(name), b) for name in names)]
    taken, step = 0, max(1, len(ready) * config.block // config.retrain.check_images)
    for block in ready[::step]:
        failed = unusable(plan.receipts["ingest"][block].failed, kind)
        rows = plan.blocks[block]
        live = [n for n, row in enumerate(rows) if row.status == "active" and row.id not in failed]
        if live and taken < config.retrain.check_images:
            taken += len(live)
            yield block, live


# -- promoted.json ----------------------------------------------------------------------------------------


def promote(store: Store, kind: ModelKind, entry: dict[str, Any]) -> None:
    """Make a checkpoint of the store the one that stages use; the one before can be taken back."""
    everything = store.read_json(PROMOTED) or {}
    before = everything.get(kind)
    kept = None if before is None else {name: value for name, value in before.items() if name != "before"}
    everything[kind] = entry | {"made": now(), "before": kept}
    store.write_json(PROMOTED, everything)


def declined(store: Store, kind: ModelKind) -> dict[str, str]:
    """Trainings that are not to be repeated, by the digest of what they depend on, with the reason."""
    found: dict[str, str] = (store.read_json(PROMOTED) or {}).get("declined", {}).get(kind, {})
    return found


def decline(store: Store, kind: ModelKind, run: str, why: str) -> None:
    """Note that the network of a training is not wanted: the next night does not make it again."""
    everything = store.read_json(PROMOTED) or {}
    known = declined(store, kind) | {run: why}
    everything.setdefault("declined", {})[kind] = dict(list(known.items())[-DECLINED:])
    store.write_json(PROMOTED, everything)


def rollback(store: Store, config: Config, kind: ModelKind) -> str:
    """Put the network before the present one back in its place, and do not train the present one again.

    Returns a sentence. Raises StoreError where there is none before, or the config pins one.
    """
    if pinned(config, kind) is not None:
        raise StoreError(f"the config pins the {kind} network (train_{kind}.checkpoint); correct it there")
    everything = store.read_json(PROMOTED) or {}
    entry = everything.get(kind)
    if entry is None or entry.get("before") is None:
        raise StoreError(
            f"{store.name} has no {kind} network before the present one; there is nothing to take back"
        )
    everything.setdefault("declined", {}).setdefault(kind, {})[entry["run"]] = f"rolled back ({now()})"
    everything[kind] = entry["before"] | {"before": None}
    store.write_json(PROMOTED, everything)
    model_digest(store, config, kind)
    return (
        f"{kind}: {entry['digest'][:12]} of {entry['made']} taken back, {entry['before']['digest'][:12]} of "
        f"{entry['before']['made']} in its place"
    )
