"""The declaration of a stage, from which task, fingerprint, status and documentation derive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from storage.arrays import ArraySpec

Arrays = dict[str, np.ndarray]
ModelKind = Literal["sam", "start", "vit", "fusion"]

_LISTENER: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)
"""Who is told how far a stage's function is; beside its arguments, as what it returns does not depend on it."""


@contextmanager
def listening(listener: Callable[[int], None]) -> Iterator[None]:
    """Have a stage's function that is called meanwhile, in this thread, say how many images of its block are done."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def tell(images: int) -> None:
    """So many images of the block are done, from its first on: said by a stage's function to whoever is `listening`."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(images)


def counted(images: int) -> Iterator[int]:
    """The indices of a block's images; as the next one is asked for, the last one is told to be done."""
    for n in range(images):
        yield n
        tell(n + 1)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: a pure function over a block, and what it depends on.

    name: also the name of its module in `tasks` and of its folder in the store.
    version: raised whenever the function's result changes; part of the fingerprint.
    function: called with every array in `reads` by name, the keys of the config sections in
        `config`, and, where `model` is set, `model` and `precision`; returns the arrays in `writes`.
    reads: names of arrays that other stages write (an optional one ends in `?`: None where absent).
    writes: the arrays that it makes.
    config: sections of the configuration that are passed on and fingerprinted.
    streamed: of what it reads, the arrays that it takes an image at a time, in order: they are not held whole.
    model: the network that it needs, loaded once a worker by the flow.
    facts: keywords that follow from other parts of the config (`input_side`, the side in pixels of
        SAM's input; `guided`, whether objectness is asked for), passed on and fingerprinted.
    summary: one line for people.
    """

    name: str
    version: int
    function: Callable[..., Any]
    reads: tuple[str, ...]
    writes: tuple[ArraySpec, ...]
    summary: str
    config: tuple[str, ...] = ()
    streamed: frozenset[str] = frozenset()
    model: ModelKind | None = None
    facts: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that it reads, without the mark of the optional ones."""
        return tuple(name.removesuffix("?") for name in self.reads)
