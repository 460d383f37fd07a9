"""The beginning of every run: look and plan. Networks and Prefect are loaded only where there is work."""

from __future__ import annotations

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


def run_config(config: Path, console: Console, selection: Selection | None = None) -> Summary:
    """What `bluemask run` does: look and plan first, and start Prefect only where there is work.

    Where Prefect's server cannot be had, or dies on the way, this process does what is left alone.
    Raises StoreError, before anything is done, where the disk is too small for what the run would write.
    """
    settle_allocator()
    settings = load_config(config)
    store = Store(settings.store)
    with store.writing(), bars(console) as shown:
        run = Run(store, settings, shown, selection=selection)
        if run.idle():
            return close_night(run, run.digests("fuse"))
    print_problems(run.catalogue.problems, console)
    announce(run, console)
    console.print("starting Prefect, which may take half a minute; progress follows", highlight=False)
    first = run.catalogue
    summary = _worked(settings, config, console, selection)
    # the flow's own look came second and saw no change any more
    problems = dict.fromkeys((*first.problems, *summary.catalogue.problems))
    summary.catalogue = replace(summary.catalogue, changes=first.changes, problems=tuple(problems))
    return summary


def _worked(settings: Config, config: Path, console: Console, selection: Selection | None) -> Summary:
    from flows import server
    from flows.generate import runner

    try:
        return runner(settings)(config, selection, looked=True)
    except Exception as error:
        if settings.runner == "dask" or not server.is_away(error):
            raise
        with server.leash():  # one that failed us may still be there
            summary = all_steps(settings, Alone(settings), selection, console, looked=True)
        summary.notes.append(f"Prefect's server was away ({server.said(error)}): this process went on alone")
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

    Raises StoreError, before anything is done, where the disk is too small for what the run would write.

    tidy: free space in the end, by the config's retention. looked: somebody looked before, and has said what does not fit.
    """
    settle_allocator()  # a scheduled run begins here
    store = Store(settings.store)
    with ending_at_once(), store.writing(), bars(console) as shown:
        run = Run(store, settings, shown, runner, selection)
        if not looked:  # it may take hours until the summary says so
            print_problems(run.catalogue.problems, console)
        refuse_full_disk(run)
        before = run.digests("fuse")
        try:
            _steps(run)
        except STOPS as error:
            return run.stop(error)
        summary = close_night(run, before)
        if tidy:
            work = prune_store(store, settings, nights=None, quota_gb=None, dry=False)
            summary.notes.append(f"freed {work.bytes / 1e6:.1f} MB; {work.left / 1e6:.1f} MB left")
        return summary


def _steps(run: Run) -> None:
    for step in run.steps():
        if isinstance(step, Stage):
            run.stage(step)
        else:
            run.train(step)
