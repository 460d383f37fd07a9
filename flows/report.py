"""`bluemask report`, and the same at the end of every run."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from flows.browse import open_backend, open_index, refuse_remote
from storage.receipts import now
from storage.store import Store
from tasks.registry import stages
from viewer.report import render

NAME = "report.html"


def write_report(root: Path, out: Path | None = None) -> Path:
    """Write a store's report, whole or not at all. Returns where it lies.

    out: the file, None for `report.html` in the store. Raises StoreError where there is no store.
    """
    refuse_remote(Store.existing(root))
    index = open_index(root)
    backend = open_backend(root, index, None)
    backend.refresher.run()
    title = "/".join(root.resolve().parts[-2:])
    when = now().replace("T", " ").replace("+00:00", " UTC")
    text = render(title, when, index, backend.thumbnail, [stage.name for stage in stages()])
    target = out or root / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.new")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def report_of_run(root: Path) -> str:
    """Write the report of a run that has just ended; a sentence about it, or about why there is none."""
    try:
        return f"report: {write_report(root)}"
    except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:  # the labels are made all the same
        return f"no report could be made: {type(error).__name__}: {error}"
