"""The nightly flow: from the image folder to pseudo-labels, redoing only what changed or failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from flows import server
from flows.begin import all_steps
from flows.config import Config, load_config
from flows.estimate import refuse_full_disk
from flows.networks import TRAINED
from flows.outcome import Selection, Summary
from flows.progress import bars
from flows.runners import Prefect
from flows.steps import Run
from storage.store import Store
from tasks.registry import stages
from tasks.stage import ModelKind, Stage


class RunFailedError(RuntimeError):
    """A scheduled run ended with failures or alerts; the message says which."""


@flow(name="bluemask", validate_parameters=False)
def generate(
    config: Path,
    selection: Selection | None = None,
    loud: bool = False,
    tidy: bool = False,
) -> Summary:
    """Bring a store up to date with its image folder.

    config: path of the YAML config; selection: the part to do again, None for all there is.
    loud: end as failed where something failed or an alert rule fired, as a schedule wants it. tidy: free space in
    the end, by the config's retention.
    Returns what was done, and what could not be.
    """
    settings = load_config(Path(config))
    with server.leash():
        runner, console = Prefect(settings), Console(stderr=True)
        summary = all_steps(settings, runner, selection, console, tidy=tidy)
    if loud:
        _raise_faults(summary)
    return summary


def _raise_faults(summary: Summary) -> None:
    if summary.exit_code == 1:
        faults = (f"{name}: {why}" for name, why in summary.failures.items())
        raise RunFailedError("; ".join([*summary.alerts, *faults]))


@flow(name="bluemask-train", validate_parameters=False)
def train(config: Path, networks: tuple[ModelKind, ...] = TRAINED) -> Summary:
    """Train networks anew, whatever the retrain policy says; the next run works with what was promoted.

    config: path of the YAML config; networks: which, `vit` or `fusion`.
    """
    settings = load_config(Path(config))
    store = Store(settings.store)
    with server.leash(), store.writing(), bars(Console(stderr=True)) as shown:
        run = Run(store, settings, shown, Prefect(settings))
        refuse_full_disk(run)
        for step in run.steps():
            if isinstance(step, Stage):
                if step is not stages()[-1]:
                    run.stage(step)
            elif step in networks:
                run.train(step, asked=True)
        summary = run.close()
    _raise_faults(summary)
    return summary


def runner(settings: Config) -> Callable[..., Summary]:
    """The flow on the task runner that the config names."""
    chosen: Any = ThreadPoolTaskRunner(max_workers=max(2, settings.workers))
    if settings.runner == "dask":
        from prefect_dask.task_runners import DaskTaskRunner

        chosen = DaskTaskRunner(address=settings.scheduler)
    runnable: Callable[..., Summary] = generate.with_options(task_runner=chosen)
    return runnable
