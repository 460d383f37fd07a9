"""What is there to do: every block of every stage, fresh, stale, failed or missing, and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from flows.config import Config
from flows.networks import precision_of
from models.sam_shapes import input_side
from storage.catalog import ImageRow, live_blocks
from storage.damage import damages
from storage.receipts import Receipt
from storage.store import Store
from tasks.registry import stages, writer
from tasks.stage import ModelKind, Stage

State = Literal["fresh", "stale", "failed", "missing"]
Digest = Callable[[ModelKind], str | None]


def digest_of(value: Any) -> str:
    """Short sha256 of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def section(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The keywords that a stage takes from its config sections."""
    merged: dict[str, Any] = {}
    for name in names:
        part: BaseModel = getattr(config, name)
        merged.update(part.model_dump())
    return merged


def facts(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """Keywords of a stage that follow from the config as a whole. Raises KeyError for an unknown one.

    guided: whether the config's ViT asks for objectness; of a pinned one nothing is looked at, so that it may be made for nobody.
    """
    known: dict[str, Callable[[], Any]] = {
        "input_side": lambda: input_side(config.sam.model),
        "guided": lambda: config.train_vit.objectness,
    }
    return {name: known[name]() for name in names}


def recipe(config: Config, stage: Stage) -> str:
    """Digest of the part of the config that a stage's result depends on; batch sizes are none of it."""
    values = section(config, stage.config) | facts(config, stage.facts)
    return digest_of({key: value for key, value in values.items() if key != "batch"})


def unkept(config: Config, stage: Stage) -> tuple[str, ...]:
    """Arrays of a stage of which the config keeps no copy on disk."""
    kept = config.keep.model_dump()
    return tuple(spec.name for spec in stage.writes if not kept.get(spec.name, True))


def deferred(config: Config, stage: Stage) -> bool:
    """Whether nothing of a stage is kept: it is then done in one pass with its reader, and not before."""
    return len(unkept(config, stage)) == len(stage.writes)


def fingerprint(reasons: Mapping[str, str]) -> str:
    """One digest of all that a result depends on."""
    return digest_of(dict(reasons))


@dataclass
class Plan:
    """The state of every stage × block, from receipts alone: no array is read."""

    config: Config
    rows: list[ImageRow]
    classes: list[str]
    value_range: tuple[int, int] | None
    digest: Digest
    receipts: dict[str, dict[str, Receipt]]
    failures: dict[str, set[str]]
    intact: Callable[[Receipt], bool]
    forced: set[tuple[str, str]] = field(default_factory=set)
    """Stage and block that are to be done again whatever their receipts say."""
    damaged: dict[tuple[str, str], str] = field(default_factory=dict)
    """Stage and block of which somebody could not read an array, and why. A run has them done again; what reads them stands."""
    blocks: dict[str, list[ImageRow]] = field(init=False)
    _recipes: dict[str, str] = field(init=False)
    precision: str = field(init=False)
    _known: dict[tuple[str, str], bool] = field(init=False, default_factory=dict)
    _digests: dict[ModelKind, str | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Derive what never changes in a plan."""
        self.blocks = live_blocks(self.rows)
        self.precision = precision_of(self.config)
        self._recipes = {stage.name: recipe(self.config, stage) for stage in stages()}

    def update(self, receipt: Receipt) -> None:
        """Take in that a stage has done a block."""
        self.receipts[receipt.stage][receipt.block] = receipt
        self.forced.discard((receipt.stage, receipt.block))
        self.damaged.pop((receipt.stage, receipt.block), None)
        self.failures[receipt.stage].discard(receipt.block)
        for stage in stages():  # workers do this at the same time: entry by entry, never the whole
            self._known.pop((stage.name, receipt.block), None)

    def force(self, stage: str, blocks: Iterable[str]) -> None:
        """Have a stage done again on some blocks; what reads it follows where its content changes."""
        self.forced |= {(stage, block) for block in blocks}
        self._known.clear()

    def part(self, blocks: Iterable[str]) -> Plan:
        """The same plan of some blocks alone: small enough to be sent to another process."""
        wanted = set(blocks)
        return Plan(
            config=self.config,
            rows=[row for row in self.rows if row.block in wanted],
            classes=self.classes,
            value_range=self.value_range,
            digest=self.digest,
            receipts={
                name: {block: receipt for block, receipt in found.items() if block in wanted}
                for name, found in self.receipts.items()
            },
            failures={name: found & wanted for name, found in self.failures.items()},
            intact=self.intact,
            forced={pair for pair in self.forced if pair[1] in wanted},
        )

    def recipe(self, stage: Stage) -> str:
        """Digest of the part of the config that a stage's result depends on."""
        return self._recipes[stage.name]

    def forget(self) -> None:
        """Judge everything anew: another network was promoted."""
        self._known.clear()
        self._digests.clear()

    def network(self, kind: ModelKind) -> str | None:
        """Digest of the weights that stages use now, asked for once: every block of a stage needs it."""
        if kind not in self._digests:
            self._digests[kind] = self.digest(kind)
        return self._digests[kind]

    @classmethod
    def of(
        cls,
        store: Store,
        config: Config,
        rows: list[ImageRow],
        value_range: tuple[int, int] | None,
        digest: Digest,
        classes: list[str] | None = None,
    ) -> Plan:
        """Gather receipts and failures of a store. classes: None takes the store's."""
        met = {(damage.stage, damage.block): f"{damage.file} {damage.why}" for damage in damages(store)}
        return cls(
            config=config,
            rows=rows,
            classes=store.classes() if classes is None else classes,
            value_range=value_range,
            digest=digest,
            receipts={stage.name: store.receipts(stage.name) for stage in stages()},
            failures={stage.name: set(store.failures(stage.name)) for stage in stages()},
            intact=store.intact,
            damaged=met,
        )

    def reasons(self, stage: Stage, block: str) -> dict[str, str] | None:
        """The fingerprint's parts for a block now; None while an input is yet to be made."""
        parts = {"version": str(stage.version), "config": self.recipe(stage)}
        if stage.name == "ingest":
            return parts | self._source(block)
        if stage.model is not None:
            model = self.network(stage.model)
            if model is None:
                return None
            parts |= {f"model {stage.model}": model, "precision": self.precision}
        for name in stage.inputs:
            source = writer(name)
            if not self.fresh(source, block):
                return None
            parts[f"array {name}"] = self.receipts[source.name][block].arrays[name].digest
        return parts

    def _source(self, block: str) -> dict[str, str]:
        rows = self.blocks[block]
        indices = [sorted(self.classes.index(name) for name in row.labels) for row in rows]
        return {
            "pixels": digest_of([[row.sha256 for row in rows], self.value_range]),
            "labels": digest_of(indices),
            "annotations": digest_of([row.annotation for row in rows]),
        }

    def ready(self, stage: Stage, block: str) -> bool:
        """Whether all that a stage reads is there, or is made on the way, in one pass with it."""
        if stage.model is not None and self.network(stage.model) is None:
            return False
        return all(
            self.fresh(source, block) or (deferred(self.config, source) and self.ready(source, block))
            for source in map(writer, stage.inputs)
        )

    def fresh(self, stage: Stage, block: str) -> bool:
        """Whether the receipt is there, from just what there is now, and its files with it."""
        key = (stage.name, block)
        if key not in self._known:
            self._known[key] = self._judge(stage, block)
        return self._known[key]

    def _judge(self, stage: Stage, block: str) -> bool:
        receipt = self.receipts[stage.name].get(block)
        if receipt is None or (stage.name, block) in self.forced:
            return False
        reasons = self.reasons(stage, block)
        return reasons is not None and receipt.fingerprint == fingerprint(reasons) and self.intact(receipt)

    def again(self, stage: Stage, block: str) -> bool:
        """Whether an image of a done block could not be had: each run tries it again, and its neighbours stand."""
        receipt = self.receipts[stage.name].get(block)
        return receipt is not None and any(
            row.id in receipt.failed and row.status == "active" for row in self.blocks[block]
        )

    def state(self, stage: Stage, block: str) -> State:
        """How a block stands with a stage."""
        if self.fresh(stage, block) and (stage.name, block) not in self.damaged:
            return "fresh"
        if block in self.failures[stage.name]:
            return "failed"
        return "stale" if block in self.receipts[stage.name] else "missing"

    def why(self, stage: Stage, block: str) -> str:
        """Which parts of the fingerprint changed since the block was done."""
        receipt, reasons = self.receipts[stage.name].get(block), self.reasons(stage, block)
        if receipt is None:
            return "never done"
        if (stage.name, block) in self.damaged:
            return self.damaged[stage.name, block]
        if (stage.name, block) in self.forced:
            return "asked for"
        if reasons is None:
            return "waits for what it reads"
        if self.fresh(stage, block) and self.again(stage, block):
            return "an image of it could not be had, or bears marks that do not fit"
        changed = sorted(
            name
            for name in reasons.keys() | receipt.reasons.keys()
            if reasons.get(name) != receipt.reasons.get(name)
        )
        return ", ".join(changed) if changed else "its files are gone or have another size"

    def todo(self, stage: Stage) -> list[str]:
        """Blocks that the stage must do or try again, in order."""
        return [block for block in self.blocks if not self.fresh(stage, block) or self.again(stage, block)]

    def table(self) -> dict[str, Counter[State]]:
        """Number of blocks in each state, by stage."""
        return {stage.name: Counter(self.state(stage, block) for block in self.blocks) for stage in stages()}
