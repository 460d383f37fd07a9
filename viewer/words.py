"""Counts and times in words, on pages and on the terminal alike."""

from __future__ import annotations


def of_so_many(unit: str, count: int) -> str:
    """The unit, a plural, as it is said of so many."""
    if count != 1:
        return unit
    return unit.removesuffix("es") if unit.endswith("sses") else unit.removesuffix("s")


def so_many(count: int, unit: str) -> str:
    """A count and its unit, given as a plural: 1 block, 2 blocks."""
    return f"{count} {of_so_many(unit, count)}"


def so_long(seconds: float) -> str:
    """A time in the unit that suits it: 40 s, 12 min, 1.6 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
