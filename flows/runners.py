"""Who works on the blocks: Prefect tasks on threads or on Dask, or this process alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from flows import training
from flows.config import Config
from flows.execute import STOPS, BlockError, Job
from models.telling import Report
from tasks.registry import stage as stage_of
from tasks.stage import ModelKind, Stage

PAUSE = 2.0
"""Seconds before the first retry; each pause doubles."""
SLOT = "accelerator"
"""Resource of a Dask worker that may run networks: one for each device."""


class Runner(Protocol):
    """Takes groups of blocks and says, when asked, how they went."""

    def places(self, stage: Stage) -> int:
        """Groups of a stage that may be under way at a time."""

    def submit(self, job: Job, stage: Stage, blocks: list[str]) -> Callable[[], Exception | None]:
        """Start a group; calling the result waits for it and gives what went wrong."""

    def fit(self, job: Job, kind: ModelKind, report: Report) -> str:
        """Train a network; gives what became of it."""


class Alone:
    """This process, one block after the other, with no server of any kind."""

    def __init__(self, config: Config) -> None:
        """config: how often a failing block is tried again."""
        self.retries = config.retries

    def places(self, stage: Stage) -> int:
        """One."""
        return 1

    def submit(self, job: Job, stage: Stage, blocks: list[str]) -> Callable[[], Exception | None]:
        """Do a group at once."""
        error = _tried(lambda: work(job, stage.name, blocks), self.retries)
        return lambda: error

    def fit(self, job: Job, kind: ModelKind, report: Report) -> str:
        """Train a network."""
        return training.train(job.store, job.config, job.plan, kind, report)


def _tried(action: Callable[[], None], retries: int) -> Exception | None:
    """Do something, again after growing pauses where a block fails; gives the last error."""
    for attempt in range(retries + 1):
        try:
            action()
        except BlockError as error:
            if attempt == retries:
                return error
            time.sleep(PAUSE * 2**attempt)
        except STOPS as error:
            return error
        else:
            return None
    return None


class Prefect:
    """Prefect task runs on the flow's own task runner."""

    def __init__(self, config: Config) -> None:
        """config: retries, workers, and which runner."""
        self.config = config
        self.far = config.runner == "dask"
        self._slots: bool | None = None

    def places(self, stage: Stage) -> int:
        """Two for a network (see execute.SLOT): while it is at one, the other is read or written. Dask counts itself."""
        return 2 if stage.model is not None and not self.far else self.config.workers

    def submit(self, job: Job, stage: Stage, blocks: list[str]) -> Callable[[], Exception | None]:
        """Start a task run for a group."""
        worker = _blocks_task(self.config).with_options(name=stage.name)
        sent = job.part(blocks) if self.far else job
        with self._slot(stage):
            future: Any = worker.submit(sent, stage.name, blocks)

        def wait() -> Exception | None:
            future.wait()
            result = future.result(raise_on_failure=False)
            return result if isinstance(result, Exception) else None

        return wait

    def fit(self, job: Job, kind: ModelKind, report: Report) -> str:
        """Train a network in a task run of this process."""
        name = f"train_{kind}"
        made: str = _as_task(fit).with_options(name=name)(job, kind, report)
        return made

    def _slot(self, stage: Stage) -> AbstractContextManager[Any]:
        """What needs a network goes to a worker with a free accelerator, where workers say that they have one."""
        if stage.model is None or not self.far or not self._has_slots():
            return nullcontext()
        from dask.base import annotate

        held: AbstractContextManager[Any] = annotate(resources={SLOT: 1})
        return held

    def _has_slots(self) -> bool:
        if self._slots is None:
            from distributed import Client

            connect: Any = Client
            with connect(self.config.scheduler, set_as_default=False) as client:
                workers = client.scheduler_info(n_workers=-1)["workers"].values()
                self._slots = any(SLOT in worker.get("resources", {}) for worker in workers)
        return self._slots


def _worth_it(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed task run is tried again: not where no block could go on."""
    return not isinstance(state.result(raise_on_failure=False), STOPS)


def _blocks_task(config: Config) -> Any:
    """The Prefect task for blocks, with the config's retries.

    Prefect's result cache is off: receipts decide what there is to do, and they survive `kill -9`.
    """
    from prefect.tasks import exponential_backoff

    function = far_work if config.runner == "dask" else work
    if not config.retries:
        return _as_task(function)
    pauses: Callable[[int], list[float]] = exponential_backoff(backoff_factor=PAUSE)
    return _as_task(function).with_options(
        retries=config.retries, retry_delay_seconds=pauses, retry_condition_fn=_worth_it
    )


def _as_task(function: Callable[..., Any]) -> Any:
    """A Prefect task; Prefect is loaded here, as a run with nothing to do never comes here."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    return task(cache_policy=NO_CACHE, persist_result=False)(function)


def fit(job: Job, kind: ModelKind, report: Report) -> str:
    """Train one network."""
    return training.train(job.store, job.config, job.plan, kind, report)


def far_work(job: Job, stage: str, blocks: list[str]) -> None:
    """The same in a worker's process, for which Prefect may have started a server of its own."""
    from flows import server

    server.keep()
    work(job, stage, blocks)


def work(job: Job, stage: str, blocks: list[str]) -> None:
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
