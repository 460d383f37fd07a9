"""Every stage of the pipeline, found by looking: adding one means adding a file to this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from storage.arrays import ArraySpec
from tasks.stage import Stage


@cache
def stages() -> tuple[Stage, ...]:
    """All stages that declare themselves as `STAGE`, each after those whose arrays it reads."""
    found = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        stage = getattr(importlib.import_module(f"tasks.{module.name}"), "STAGE", None)
        if isinstance(stage, Stage):
            found.append(stage)
    return _in_order(found)


def _in_order(found: list[Stage]) -> tuple[Stage, ...]:
    """Topological order by what is read and written. Raises ValueError for a name that nobody writes."""
    waiting, ordered, known = list(found), list[Stage](), set[str]()
    while waiting:
        ready = [stage for stage in waiting if known.issuperset(stage.inputs)]
        if not ready:
            lacking = {stage.name: sorted(set(stage.inputs) - known) for stage in waiting}
            raise ValueError(f"stages read arrays that no stage before them writes: {lacking}")
        ordered += ready
        known.update(spec.name for stage in ready for spec in stage.writes)
        waiting = [stage for stage in waiting if stage not in ready]
    return tuple(ordered)


@cache
def stage(name: str) -> Stage:
    """The stage of that name. Raises KeyError with the names there are."""
    by_name = {item.name: item for item in stages()}
    if name not in by_name:
        raise KeyError(f"no stage {name!r}; there are: {', '.join(by_name)}")
    return by_name[name]


@cache
def writer(array: str) -> Stage:
    """The stage that writes an array. Raises KeyError where none does."""
    for item in stages():
        if any(spec.name == array for spec in item.writes):
            return item
    raise KeyError(f"no stage writes an array {array!r}")


@cache
def spec(array: str) -> ArraySpec:
    """The declaration of an array, by its name."""
    return next(item for item in writer(array).writes if item.name == array)
