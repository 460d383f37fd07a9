"""The steps of a run: look, train, and every stage over its blocks."""

from __future__ import annotations

import math
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import yaml

from flows import training
from flows.catalogue import refresh
from flows.config import Config
from flows.execute import STOPS, Job
from flows.memory import give_back
from flows.networks import TRAINED, model_digest, pinned, prepare
from flows.outcome import Selection, Summary
from flows.plan import Plan, deferred
from flows.progress import Bars
from flows.runners import Alone, Runner
from flows.underway import Noted
from storage.damage import advice, damages, forget_mended
from storage.receipts import Receipt
from storage.store import Store, StoreError
from tasks.registry import stages, writer
from tasks.stage import ModelKind, Stage

LEAST_SECONDS = 5.0
"""Work of one task run: shorter ones cost more in bookkeeping than they gain, and are lost from records."""
MOST_TASKS = 400
"""Task runs of one stage in one flow run: Prefect keeps memory for each."""


class Run:
    """One run over a store, whose writer's lock the caller holds."""

    def __init__(
        self,
        store: Store,
        config: Config,
        shown: Bars,
        runner: Runner | None = None,
        selection: Selection | None = None,
        *,
        dry: bool = False,
    ) -> None:
        """shown: where progress is drawn; runner: None is this process alone; selection: None is all there is.

        dry: only look; the store is not touched, and its lock need not be held.
        """
        self.store, self.config = store, config
        self.runner = runner or Alone(config)
        if not dry:
            store.objects.sweep()
            store.documents.settle()
            _note_config(store, config)
            shown = Noted(shown, store)
        self.shown = shown
        shown.start("look", 0, "files")
        self.catalogue = refresh(store, config, partial(shown.reach, "look"), write=not dry)
        shown.finish("look")
        digest = partial(model_digest, store, config)
        found = self.catalogue
        self.plan = Plan.of(store, config, found.rows, found.value_range, digest, found.classes)
        self.plan.forced |= self.plan.damaged.keys()
        self.job = Job(store, config, self.plan, shown.advance)
        first = advice(store.name) if dry else advice(store.name, "this run")
        damaged = [
            f"{damage.words}; {first}" for damage in damages(store) if damage.block in self.plan.blocks
        ]
        self.catalogue = replace(found, problems=(*found.problems, *damaged, *self.job.misplaced()))
        self.summary = Summary(self.catalogue)
        self.only = None if selection is None else self._select(selection)

    def _select(self, selection: Selection) -> set[str]:
        """The blocks that a rerun is about, whose stage is then to be done again. Raises StoreError for a wrong name."""
        if selection.stage not in {stage.name for stage in stages()}:
            names = ", ".join(stage.name for stage in stages())
            raise StoreError(f"{selection.stage!r} is no stage; there are: {names}")
        chosen = set(self.plan.blocks)
        if selection.images:
            known = {row.path: row.block for row in self.catalogue.rows if row.status == "active"}
            if strange := [path for path in selection.images if path not in known]:
                raise StoreError(f"{strange[0]!r} is no image of {self.store.name}; see `bluemask status`")
            chosen &= {known[path] for path in selection.images}
        if selection.failed:
            chosen &= self.plan.failures[selection.stage] | self._with_failed_images(selection.stage)
        self.plan.force(selection.stage, chosen)
        return chosen

    def _with_failed_images(self, stage: str) -> set[str]:
        return {block for block, receipt in self.plan.receipts[stage].items() if receipt.failed}

    def todo(self, stage: Stage) -> list[str]:
        """Blocks that the stage must do in this run, in order."""
        return [block for block in self.plan.todo(stage) if self.only is None or block in self.only]

    def forecast(self) -> dict[str, int]:
        """Images that each stage is to do, and that each network is to be trained on, as far as it shows now."""
        found: dict[str, int] = {}
        for step in self.steps():
            if isinstance(step, Stage):
                found[step.name] = sum(len(self.plan.blocks[block]) for block in self.todo(step))
            elif self.decision(step).train:
                found[f"train_{step}"] = sum(row.status == "active" for row in self.catalogue.rows)
        return {name: count for name, count in found.items() if count}

    def digests(self, stage: str) -> dict[str, str]:
        """Content digest of a stage's first array by block, as far as it stands."""
        return {
            block: next(iter(receipt.arrays.values())).digest
            for block, receipt in self.plan.receipts[stage].items()
        }

    def idle(self) -> bool:
        """Whether every block of every stage is fresh and no network is to be trained."""
        return not self.forecast()

    def steps(self) -> Iterator[Stage | ModelKind]:
        """Stages in order, each network's training right before the first stage that needs it."""
        trained: set[ModelKind] = set()
        for stage in stages():
            if stage.model is not None and stage.model in TRAINED and stage.model not in trained:
                trained.add(stage.model)
                yield stage.model
            yield stage

    def decision(self, kind: ModelKind) -> training.Decision:
        """Whether a network is to be trained in this run, and why."""
        if self.only is not None and model_digest(self.store, self.config, kind) is not None:
            return training.Decision(False, "only some blocks are done again")
        return self._decided(kind, foreseen=False)

    def _decided(self, kind: ModelKind, *, foreseen: bool) -> training.Decision:
        try:
            return training.decide(self.store, self.config, self.plan, kind, foreseen=foreseen)
        except StoreError as error:  # what somebody drew is damaged: the network that there is stays
            self.summary.failures[f"train_{kind}"] = str(error)
            return training.Decision(False, str(error))

    def foreseen(self, kind: ModelKind) -> training.Decision:
        """Whether this run will train a network, as far as it shows before what that learns from is made."""
        decision = self.decision(kind)
        if self.only is not None and model_digest(self.store, self.config, kind) is not None:
            return decision
        if any(self.todo(writer(name)) for name in training.READS[kind]):
            decision = self._decided(kind, foreseen=True)
        if decision.train:
            return replace(decision, why=f"perhaps: {decision.why}") if decision.counted else decision
        before = TRAINED[: TRAINED.index(kind)]  # whose results it learns from
        rules = self.config.retrain
        heeded = rules.policy == "always" or (rules.policy == "changed" and rules.share < 1)
        if heeded and pinned(self.config, kind) is None and any(self.foreseen(one).train for one in before):
            return training.Decision(True, "perhaps: what it learns from is made anew", counted=True)
        return decision

    def note(self, step: str) -> None:
        """Note in the store what the run is at, where that has no bar."""
        if isinstance(self.shown, Noted):
            self.shown.note(step)

    def train(self, kind: ModelKind, *, asked: bool = False) -> None:
        """Train a network where the retrain policy says so, or where it is asked for."""
        decision = training.Decision(True, "asked for") if asked else self.decision(kind)
        name = f"train_{kind}"
        if not decision.train:
            self.summary.notes.append(f"{name}: kept: {decision.why}")
            return
        started = time.monotonic()
        self.shown.start(name, 0, "steps")
        try:
            outcome = self.runner.fit(self.job, kind, partial(self.shown.reach, name))
            self.summary.notes.append(f"{name}: {outcome} (reason: {decision.why})")
        except STOPS:
            raise
        except (RuntimeError, ValueError, OSError) as error:  # what needs no new network still goes on
            self.summary.failures[name] = f"{type(error).__name__}: {error}"
            return
        finally:
            self.shown.finish(name)
            give_back()
        self.plan.forget()
        self._count(name, 1, sum(1 for _ in training.members(self.plan, kind)), time.monotonic() - started)

    def stage(self, stage: Stage) -> None:
        """Do every stale block of a stage; a failing one is reported, and all that does not need it goes on.

        Raises one of STOPS where no block can go on.
        """
        todo = [block for block in self.todo(stage) if self.plan.ready(stage, block)]
        if not todo or deferred(self.config, stage):
            return
        if stage.model is not None:
            prepare(self.config, stage.model)
        started = time.monotonic()
        self.shown.start(stage.name, sum(len(self.plan.blocks[block]) for block in todo), "images")
        receipts = self.plan.receipts[stage.name]
        before = {block: receipts.get(block) for block in todo}
        try:
            for blocks, error in self._in_window(stage, todo):
                self._take(stage, blocks, error, before)
        finally:
            self.shown.finish(stage.name)
            done = [b for b in todo if self.plan.fresh(stage, b) and receipts.get(b) is not before[b]]
            images = sum(len(self.plan.blocks[block]) for block in done)
            self._count(stage.name, len(done), images, time.monotonic() - started)

    def _in_window(self, stage: Stage, todo: list[str]) -> Iterator[tuple[list[str], Exception | None]]:
        """Submit groups of blocks, never more at a time than there are places; give each group's error."""
        places = self.runner.places(stage)
        waiting = deque(todo)
        running = deque[tuple[list[str], Callable[[], Exception | None]]]()
        size = 1
        while waiting or running:
            while waiting and len(running) < places:
                group = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                running.append((group, self.runner.submit(self.job, stage, group)))
            group, wait = running.popleft()
            yield group, wait()
            give_back()
            size = self._group_size(stage, group, len(todo))

    def _take(
        self,
        stage: Stage,
        blocks: list[str],
        error: Exception | None,
        before: Mapping[str, Receipt | None],
    ) -> None:
        """Note how a group went; what another process did is read from its receipts.

        before: each block's receipt when the stage began.
        """
        for block in blocks:
            due = not self.plan.fresh(stage, block) or self.plan.again(stage, block)
            if due and self._read_again(block) and self.plan.fresh(stage, block):
                self.shown.advance(stage.name, len(self.plan.blocks[block]))
        if isinstance(error, STOPS):
            raise error
        for block in blocks:
            same = self.plan.receipts[stage.name].get(block) is before[block]
            if not self.plan.fresh(stage, block) or (error is not None and same):
                self._note(stage, block, str(error or "it was not done, and nobody said why"))

    def _read_again(self, block: str) -> bool:
        """Take in what another process wrote of a block; whether that is anything."""
        found = [(stage.name, self.store.receipt(stage.name, block)) for stage in stages()]
        new = [r for name, r in found if r is not None and r != self.plan.receipts[name].get(block)]
        for receipt in new:
            self.plan.update(receipt)
        return bool(new)

    def _group_size(self, stage: Stage, group: list[str], total: int) -> int:
        seconds = [r.seconds for block in group if (r := self.plan.receipts[stage.name].get(block))]
        typical = sum(seconds) / len(seconds) if seconds else LEAST_SECONDS
        return max(1, math.ceil(LEAST_SECONDS / max(typical, 1e-3)), math.ceil(total / MOST_TASKS))

    def close(self) -> Summary:
        """The run's figures, once all steps are done."""
        self.note("close")
        self._drop_unkept()
        for stage in stages():
            self.store.write_index(stage.name)
        forget_mended(self.store)
        return self._figures()

    def _figures(self) -> Summary:
        for block, receipt in self.plan.receipts["ingest"].items():
            names = {row.id: row.path for row in self.plan.blocks.get(block, []) if row.status == "active"}
            self.summary.failed_images |= {names[i]: why for i, why in receipt.failed.items() if i in names}
        for name, batch in self.job.batches.items():
            self.summary.notes.append(f"{name}: memory did not suffice; {batch} at a time did")
        self.summary.peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        return self.summary

    def stop(self, error: Exception) -> Summary:
        """The run's figures where it had to end early."""
        self.summary.failures["the run ended early"] = str(error)
        return self._figures()

    def _note(self, stage: Stage, block: str, error: str) -> None:
        self.store.record_failure(stage.name, block, error)
        self.plan.failures[stage.name].add(block)
        self.summary.failures[f"{stage.name} {block}"] = error

    def _count(self, name: str, blocks: int, images: int, seconds: float) -> None:
        if blocks:
            found = self.summary
            found.done[name], found.images[name], found.seconds[name] = blocks, images, seconds

    def _drop_unkept(self) -> None:
        """Remove what the config does not keep any more."""
        for name, kept in self.config.keep.model_dump().items():
            for receipt in list(self.plan.receipts[writer(name).name].values()) if not kept else ():
                if name not in receipt.dropped:
                    self.plan.update(self.store.drop(receipt, name))


def is_noted(store: Store, config: Config) -> bool:
    """Whether a config is the one of the store's last run: all that is done without naming one goes by that."""
    return store.objects.get("config.yaml") == _as_noted(config)


def _note_config(store: Store, config: Config) -> None:
    if not is_noted(store, config):
        store.documents.write("config.yaml", _as_noted(config))


def _as_noted(config: Config) -> bytes:
    return yaml.safe_dump(config.model_dump(mode="json")).encode()
