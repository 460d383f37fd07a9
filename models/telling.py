"""How a training says how far it is: in parts, one after the other, each of which counts units of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from models.spool import Lazy

Item = TypeVar("Item")

Report = Callable[[int, int, float, str], None]
"""Called with units done, units of this part in all, the loss (not a number where there is none), and what they are."""
STEPS = "steps"
"""Units of the part that is the training itself."""
LOOK_STEPS = "steps of the look"
"""Of the training of the networks of the look, which the fusion's comes after."""
READ, READ_AGAIN = "images read", "images read again"
"""Of the parts that go through the images."""


class Watched(Lazy[Item]):
    """Rows that are read in order; the place of each is told once it is there."""

    def __init__(self, rows: Sequence[Item], report: Report | None, unit: str) -> None:
        """unit: what a row is called; report: None: nobody is told."""
        self._rows, self._report, self._unit = rows, report, unit

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def row(self, place: int) -> Item:
        """A row of the sequence."""
        found = self._rows[place]
        if self._report is not None:
            self._report(place + 1, len(self), math.nan, self._unit)
        return found


def counter(report: Report | None, total: int, unit: str) -> Callable[[], None] | None:
    """Something to be called after each unit of a part; None where nobody is told."""
    if report is None:
        return None
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        report(done, total, math.nan, unit)

    return count
