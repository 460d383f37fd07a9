"""The steps of a run: look, train, and every stage over its blocks, by Prefect tasks."""

from __future__ import annotations

import math
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from flows import training
from flows.catalogue import Catalogue, refresh
from flows.config import Config
from flows.execute import BlockError, Job
from flows.networks import model_digest
from flows.plan import Plan, deferred
from flows.progress import Bars
from storage.catalog import ImageRow
from storage.store import Store
from tasks.registry import stage as stage_of
from tasks.registry import stages, writer
from tasks.stage import ModelKind, Stage

LEAST_SECONDS = 5.0
"""Work of one task run: shorter ones cost more in bookkeeping than they gain, and are lost from records."""
MOST_TASKS = 400
"""Task runs of one stage in one flow run: Prefect keeps memory for each."""
TRAINED: tuple[ModelKind, ...] = ("vit", "fusion")


@dataclass
class Summary:
    """What a run did, in figures that tell the truth."""

    catalogue: Catalogue
    done: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failed_images: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    peak_gb: float = 0.0

    @property
    def quarantined(self) -> list[ImageRow]:
        """Images that could not be read, and are in no output."""
        return [row for row in self.catalogue.rows if row.status == "quarantined"]

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not self.done and not self.failures

    @property
    def exit_code(self) -> int:
        """0 all is well; 1 something failed; 3 done, but some images could not be read."""
        if self.failures:
            return 1
        return 3 if self.quarantined or self.failed_images else 0


class Run:
    """One run over a store, whose writer's lock the caller holds."""

    def __init__(self, store: Store, config: Config, shown: Bars) -> None:
        """shown: where progress is drawn."""
        self.store, self.config, self.shown = store, config, shown
        store.objects.sweep()
        store.objects.put("config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
        shown.start("look", 0, "files")
        self.catalogue = refresh(store, config, partial(shown.reach, "look"))
        shown.finish("look")
        digest = partial(model_digest, store, config)
        self.plan = Plan.of(store, config, self.catalogue.rows, self.catalogue.value_range, digest)
        self.job = Job(store, config, self.plan, shown.advance)
        self.summary = Summary(self.catalogue)

    def forecast(self) -> dict[str, int]:
        """Images that each stage is to do, and that each network is to be trained on, as far as it shows now."""
        found: dict[str, int] = {}
        for step in self.steps():
            if isinstance(step, Stage):
                found[step.name] = sum(len(self.plan.blocks[block]) for block in self.plan.todo(step))
            elif training.decide(self.store, self.config, self.plan, step).train:
                found[f"train_{step}"] = sum(row.status == "active" for row in self.catalogue.rows)
        return {name: count for name, count in found.items() if count}

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

    def train(self, kind: ModelKind) -> None:
        """Train a network where the retrain policy says so, and promote it."""
        decision = training.decide(self.store, self.config, self.plan, kind)
        name = f"train_{kind}"
        self.summary.notes.append(f"{name}: {'trained' if decision.train else 'kept'}: {decision.why}")
        if not decision.train:
            return
        started = time.monotonic()
        self.shown.start(name, 0, "steps")
        try:
            as_task(fit).with_options(name=name)(self.job, kind, partial(self.shown.reach, name))
        except (RuntimeError, ValueError, OSError) as error:  # what needs no new network still goes on
            self.summary.failures[name] = f"{type(error).__name__}: {error}"
            return
        finally:
            self.shown.finish(name)
        self.plan.forget()
        self._count(name, 1, sum(1 for _ in training.members(self.plan, kind)), time.monotonic() - started)

    def stage(self, stage: Stage) -> None:
        """Do every stale block of a stage; a failing one is reported, and all that does not need it goes on."""
        todo = [block for block in self.plan.todo(stage) if self.plan.ready(stage, block)]
        if not todo or deferred(self.config, stage):
            return
        started = time.monotonic()
        self.shown.start(stage.name, len(todo), "blocks")
        for blocks, error in self._in_window(stage, todo):
            for block in blocks:
                self._note(stage, block, error)
        self.shown.finish(stage.name)
        done = [block for block in todo if self.plan.fresh(stage, block)]
        self._count(
            stage.name, len(done), sum(len(self.plan.blocks[b]) for b in done), time.monotonic() - started
        )

    def _in_window(self, stage: Stage, todo: list[str]) -> Iterator[tuple[list[str], str]]:
        """Submit groups of blocks, never more at a time than there are places; give each group's error."""
        # two groups for one network (see execute.SLOT): while it is at one, the other is read or written
        places = 2 if stage.model is not None else self.config.workers
        worker = blocks_task(self.config).with_options(name=stage.name)
        waiting, running = deque(todo), deque[tuple[list[str], Any]]()
        size = 1
        while waiting or running:
            while waiting and len(running) < places:
                group = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                running.append((group, worker.submit(self.job, stage.name, group)))
            group, future = running.popleft()
            future.wait()
            yield group, _error(future)
            size = self._group_size(stage, group, len(todo))

    def _group_size(self, stage: Stage, group: list[str], total: int) -> int:
        seconds = [r.seconds for block in group if (r := self.plan.receipts[stage.name].get(block))]
        typical = sum(seconds) / len(seconds) if seconds else LEAST_SECONDS
        return max(1, math.ceil(LEAST_SECONDS / max(typical, 1e-3)), math.ceil(total / MOST_TASKS))

    def close(self) -> Summary:
        """The run's figures, once all steps are done."""
        self._drop_unkept()
        for stage in stages():
            self.store.write_index(stage.name)
        for block, receipt in self.plan.receipts["ingest"].items():
            names = {row.id: row.path for row in self.plan.blocks.get(block, []) if row.status == "active"}
            self.summary.failed_images |= {names[i]: why for i, why in receipt.failed.items() if i in names}
        self.summary.peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        return self.summary

    def _note(self, stage: Stage, block: str, error: str) -> None:
        if not self.plan.fresh(stage, block):
            self.store.record_failure(stage.name, block, error)
            self.plan.failures[stage.name].add(block)
            self.summary.failures[f"{stage.name} {block}"] = error

    def _count(self, name: str, blocks: int, images: int, seconds: float) -> None:
        self.summary.done[name], self.summary.images[name], self.summary.seconds[name] = (
            blocks,
            images,
            seconds,
        )

    def _drop_unkept(self) -> None:
        """Remove the large arrays that the config does not keep, now that their readers are done."""
        for name, kept in self.config.keep.model_dump().items():
            for receipt in list(self.plan.receipts[writer(name).name].values()) if not kept else ():
                if name not in receipt.dropped:
                    self.plan.update(self.store.drop(receipt, name))


def _error(future: Any) -> str:
    result = future.result(raise_on_failure=False)
    return str(result) if isinstance(result, BaseException) else ""


def blocks_task(config: Config) -> Any:
    """The Prefect task for blocks, with the config's retries.

    Prefect's result cache is off: receipts decide what there is to do, and they survive `kill -9`.
    """
    from prefect.tasks import exponential_backoff

    if not config.retries:
        return as_task(do_blocks)
    pauses: Callable[[int], list[float]] = exponential_backoff(backoff_factor=2)
    return as_task(do_blocks).with_options(retries=config.retries, retry_delay_seconds=pauses)


def as_task(function: Callable[..., Any]) -> Any:
    """A Prefect task; Prefect is loaded here, as a run with nothing to do never comes here."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    return task(cache_policy=NO_CACHE, persist_result=False)(function)


def do_blocks(job: Job, stage: str, blocks: list[str]) -> None:
    """One stage over some blocks. One bad block does not keep the others: it is raised at the end."""
    chosen = stage_of(stage)
    errors = []
    for block in blocks:
        try:
            job.run(chosen, block)
        except BlockError as error:
            errors.append(str(error))
    if errors:
        raise BlockError("; ".join(errors))


def fit(job: Job, kind: ModelKind, report: training.Report) -> str:
    """Train and promote one network."""
    return training.train(job.store, job.config, job.plan, kind, report)
