"""Doing a stage again on a store, with the config of its last run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from flows.begin import run_config
from flows.outcome import Selection, Summary
from flows.summary import stored_config
from storage.store import Store


def rerun_stage(root: Path, stage: str, console: Console, *, failed: bool, images: Sequence[str]) -> Summary:
    """Do a stage again, on all blocks or some; what reads it follows where its content changes.

    root: the store; failed: only blocks on which it failed; images: only blocks that hold one of these paths.
    Raises StoreError for a stage or an image that is not there.
    """
    settings = stored_config(Store.existing(root))
    with tempfile.TemporaryDirectory(prefix="bluemask-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
        return run_config(config, console, Selection(stage, failed=failed, images=tuple(images)))
