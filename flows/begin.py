"""The beginning of every run: look and plan. Networks and Prefect are loaded only where there is work."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from flows.config import Config, load_config
from flows.ending import ending_at_once
from flows.estimate import announce, refuse_full_disk
from flows.execute import STOPS
from flows.memory import settle_allocator
from flows.nights import close_night
from flows.outcome import Selection, Summary
from flows.progress import bars
from flows.runners import Alone, Runner
from flows.steps import Run
from flows.summary import print_problems
from flows.upkeep import prune_store
from storage.store import Store
from tasks.stage import Stage

_begun: ContextVar[Run | None] = ContextVar("begun", default=None)
"""The run that `run_config` has begun, for the flow that it calls: no parameter of a flow can carry one."""


def run_config(config: Path, console: Console, selection: Selection | None = None) -> Summary:
    """What `bluemask run` does: look and plan first, and start Prefect only where there is work.

    The writer's lock is held from the look on, so that `status` and a second run find this one while Prefect starts.
    Where Prefect's server cannot be had, or dies on the way, this process does what is left alone.
    Raises StoreError, before anything is done, where the disk is too small for what the run would write.
    """
    settle_allocator()
    settings = load_config(config)
    store = Store(settings.store)
    with ending_at_once():
        with store.writing(), bars(console) as shown:
            run = Run(store, settings, shown, selection=selection)
            if run.idle():
                return close_night(run, run.digests("fuse"))
            run.note("starting")
            print_problems(run.catalogue.problems, console)
            announce(run, console)
            console.print("starting Prefect, which may take half a minute; progress follows", highlight=False)
            done = _by_prefect(run, config, selection)
        # under a new token: what Prefect's threads are still at must not write any more
        return done if isinstance(done, Summary) else _alone(run, selection, console, done)


def _by_prefect(run: Run, config: Path, selection: Selection | None) -> Summary | str:
    """The run's summary; where Prefect's server was away, what was said of it."""
    from flows import server
    from flows.generate import runner

    handed = _begun.set(run)
    try:
        return runner(run.config)(config, selection)
    except Exception as error:
        if run.config.runner == "dask" or not server.is_away(error):
            raise
        return server.said(error)
    finally:
        _begun.reset(handed)


def _alone(first: Run, selection: Selection | None, console: Console, away: str) -> Summary:
    """The same run in this process. first: it as it was begun; away: what was said of Prefect's server."""
    from flows import server

    with server.leash():  # one that failed us may still be there
        summary = all_steps(first.config, Alone(first.config), selection, console, looked=True)
    # its own look came second and saw no change any more
    problems = dict.fromkeys((*first.catalogue.problems, *summary.catalogue.problems))
    summary.catalogue = replace(summary.catalogue, changes=first.catalogue.changes, problems=tuple(problems))
    summary.notes.append(f"Prefect's server was away ({away}): this process went on alone")
    return summary


def all_steps(
    settings: Config,
    runner: Runner,
    selection: Selection | None,
    console: Console,
    *,
    tidy: bool = False,
    looked: bool = False,
) -> Summary:
    """Every step in order, under the writer's lock; what no block can survive ends it in words.

    Called by a flow that `run_config` has called, it goes on with the run that was begun there, under the lock held there.
    Raises StoreError, before anything is done, where the disk is too small for what the run would write.

    tidy: free space in the end, by the config's retention. looked: somebody looked before, and has said what does not fit.
    """
    settle_allocator()  # a scheduled run begins here
    begun = _begun.get()
    with ending_at_once():  # Prefect has set its own handler since
        if begun is not None:
            begun.runner = runner
            return _every_step(begun, tidy=tidy)
        store = Store(settings.store)
        with store.writing(), bars(console) as shown:
            run = Run(store, settings, shown, runner, selection)
            if not looked:  # it may take hours until the summary says so
                print_problems(run.catalogue.problems, console)
            refuse_full_disk(run)
            return _every_step(run, tidy=tidy)


def _every_step(run: Run, *, tidy: bool) -> Summary:
    before = run.digests("fuse")
    try:
        _steps(run)
    except STOPS as error:
        return run.stop(error)
    summary = close_night(run, before)
    if tidy:
        work = prune_store(run.store, run.config, nights=None, quota_gb=None, dry=False)
        summary.notes.append(f"freed {work.bytes / 1e6:.1f} MB; {work.left / 1e6:.1f} MB left")
    return summary


def _steps(run: Run) -> None:
    for step in run.steps():
        if isinstance(step, Stage):
            run.stage(step)
        else:
            run.train(step)
