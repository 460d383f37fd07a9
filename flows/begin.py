"""The beginning of every run: look and plan. Networks and Prefect are loaded only where there is work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.config import load_config
from flows.estimate import announce
from flows.progress import bars
from flows.steps import Run
from storage.lock import writer_lock
from storage.store import Store

if TYPE_CHECKING:
    from flows.steps import Summary


def run_config(config: Path, console: Console) -> Summary:
    """What `bluemask run` does: look and plan first, and start Prefect only where there is work.

    Raises StoreError, before anything is done, where the disk is too small for what the run would write.
    """
    settings = load_config(config)
    store = Store(settings.store)
    with writer_lock(store.root), bars(console) as shown:
        run = Run(store, settings, shown)
        if run.idle():
            return run.close()
    announce(store, settings, run.plan, console)
    changes = run.catalogue.changes
    from flows.generate import runner

    summary = runner(settings)(config)
    # the flow's own look came second and saw no change any more
    summary.catalogue = type(summary.catalogue)(
        summary.catalogue.rows, changes, summary.catalogue.problems, summary.catalogue.value_range
    )
    return summary
