"""The nightly flow: from the image folder to pseudo-labels, redoing only what changed or failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from flows.config import Config, load_config
from flows.progress import bars
from flows.report import report_of_run
from flows.steps import Run, Summary
from storage.lock import writer_lock
from storage.store import Store
from tasks.stage import Stage


@flow(name="bluemask", validate_parameters=False)
def generate(config: Path) -> Summary:
    """Bring a store up to date with its image folder.

    config: path of the YAML config. Returns what was done, and what could not be.
    """
    settings = load_config(Path(config))
    store = Store(settings.store)
    with writer_lock(store.root), bars(Console(stderr=True)) as shown:
        run = Run(store, settings, shown)
        for step in run.steps():
            if isinstance(step, Stage):
                run.stage(step)
            else:
                run.train(step)
        summary = run.close()
    summary.notes.append(report_of_run(store.root))
    return summary


def runner(settings: Config) -> Callable[[Path], Summary]:
    """The flow on the task runner that the config names."""
    threads: Any = ThreadPoolTaskRunner(max_workers=max(2, settings.workers))
    runnable: Callable[[Path], Summary] = generate.with_options(task_runner=threads)
    return runnable
