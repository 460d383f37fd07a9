"""The nightly flow: from the image folder to pseudo-labels, redoing only what changed or failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from flows import server
from flows.config import Config, load_config
from flows.execute import STOPS
from flows.nights import close_night
from flows.outcome import Selection, Summary
from flows.progress import bars
from flows.runners import Alone, Prefect, Runner
from flows.steps import TRAINED, Run
from flows.upkeep import prune_store
from storage.store import Store
from tasks.registry import stages
from tasks.stage import ModelKind, Stage


class RunFailedError(RuntimeError):
    """A scheduled run ended with failures or alerts; the message says which."""


@flow(name="bluemask", validate_parameters=False)
def generate(
    config: Path, selection: Selection | None = None, loud: bool = False, tidy: bool = False
) -> Summary:
    """Bring a store up to date with its image folder.

    config: path of the YAML config; selection: the part to do again, None for all there is.
    loud: end as failed where something failed or an alert rule fired, as a schedule wants it. tidy: free space in
    the end, by the config's retention.
    Returns what was done, and what could not be.
    """
    settings = load_config(Path(config))
    with server.leash():
        summary = _all_steps(settings, Prefect(settings), selection, Console(stderr=True), tidy=tidy)
    if loud and summary.exit_code == 1:
        raise RunFailedError(
            "; ".join([*summary.alerts, *(f"{k}: {v}" for k, v in summary.failures.items())])
        )
    return summary


@flow(name="bluemask-train", validate_parameters=False)
def train(config: Path, networks: tuple[ModelKind, ...] = TRAINED) -> Summary:
    """Train networks anew, whatever the retrain policy says; the next run works with what was promoted.

    config: path of the YAML config; networks: which, `vit` or `fusion`.
    """
    settings = load_config(Path(config))
    store = Store(settings.store)
    with server.leash(), store.writing(), bars(Console(stderr=True)) as shown:
        run = Run(store, settings, shown, Prefect(settings))
        for step in run.steps():
            if isinstance(step, Stage):
                if step is not stages()[-1]:
                    run.stage(step)
            elif step in networks:
                run.train(step, asked=True)
        summary = run.close()
    if summary.failures:
        raise RunFailedError("; ".join(f"{k}: {v}" for k, v in summary.failures.items()))
    return summary


def _all_steps(
    settings: Config, runner: Runner, selection: Selection | None, console: Console, *, tidy: bool = False
) -> Summary:
    """Every step in order, under the writer's lock; what no block can survive ends it in words."""
    store = Store(settings.store)
    with store.writing(), bars(console) as shown:
        run = Run(store, settings, shown, runner, selection)
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


def run_config(config: Path, console: Console, selection: Selection | None = None) -> Summary:
    """What `bluemask run` does: look and plan first, and start Prefect only where there is work.

    Where Prefect's server cannot be had, or dies on the way, this process does what is left alone.
    """
    settings = load_config(config)
    store = Store(settings.store)
    with store.writing(), bars(console) as shown:
        run = Run(store, settings, shown, selection=selection)
        if run.idle():
            return close_night(run, run.digests("fuse"))
    changes = run.catalogue.changes
    summary = _worked(settings, config, console, selection)
    # the flow's own look came second and saw no change any more
    found = summary.catalogue
    summary.catalogue = type(found)(found.rows, changes, found.problems, found.value_range, found.classes)
    return summary


def _worked(settings: Config, config: Path, console: Console, selection: Selection | None) -> Summary:
    try:
        return _flow(settings)(config, selection)
    except Exception as error:
        if settings.runner == "dask" or not server.is_away(error):
            raise
        summary = _all_steps(settings, Alone(settings), selection, console)
        summary.notes.append(f"Prefect's server was away ({server.said(error)}): this process went on alone")
        return summary


def _flow(settings: Config) -> Callable[[Path, Selection | None], Summary]:
    runner: Any = ThreadPoolTaskRunner(max_workers=max(2, settings.workers))
    if settings.runner == "dask":
        from prefect_dask.task_runners import DaskTaskRunner

        runner = DaskTaskRunner(address=settings.scheduler)
    runnable: Callable[[Path, Selection | None], Summary] = generate.with_options(task_runner=runner)
    return runnable
