"""Training data on disk, read by place: however large a set, it takes no memory.

Not mapped into memory: pages that were looked at would count as the process's own, and grow with the set.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

Item = TypeVar("Item")
Row = TypeVar("Row", bound=tuple[Any, ...])


class _Place(NamedTuple):
    """Where an array lies: its first byte, dtype and shape."""

    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Lazy(Sequence[Item]):
    """Items that are read when asked for; a slice reads none of them yet."""

    @abstractmethod
    def row(self, place: int) -> Item:
        """The item at a place from 0."""

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """An item, or some of them."""
        places = range(len(self))
        return Part(self, places[index]) if isinstance(index, slice) else self.row(places[index])


class Spool(Lazy[Row]):
    """Rows of one kind of named tuple, whose arrays lie in a file that nobody else sees and that ends with the process."""

    def __init__(self, make: Callable[..., Row], folder: Path | None = None) -> None:
        """make: builds a row from its fields, such as the class itself; folder: on a disk with room, or the system's own."""
        self._make = make
        self._rows: list[tuple[Any, ...]] = []
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open as long as the rows are read)
        weakref.finalize(self, self._file.close)
        self._end = 0

    def append(self, row: Row) -> None:
        """Add a row. Raises OSError where the disk is full."""
        self._rows.append(tuple(self._put(v) if isinstance(v, np.ndarray) else v for v in row))

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self._end

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def row(self, place: int) -> Row:
        """A row, read from the file."""
        return self._make(*(self._get(v) if isinstance(v, _Place) else v for v in self._rows[place]))

    def _put(self, value: np.ndarray) -> _Place:
        data, start = np.ascontiguousarray(value), self._end
        self._file.write(data.data)
        self._end += data.nbytes
        return _Place(start, data.dtype, value.shape)

    def _get(self, place: _Place) -> np.ndarray:
        self._file.flush()
        found = np.empty(place.shape, place.dtype)
        view = found.reshape(-1).view(np.uint8).data
        read = 0
        while read < len(view):
            more = os.preadv(self._file.fileno(), [view[read:]], place.start + read)
            if not more:
                raise OSError(f"{self._file.name}: a training's temporary file ends too early")
            read += more
        return found


class Part(Lazy[Item]):
    """Some rows of a sequence, each read when asked for."""

    def __init__(self, rows: Sequence[Item], places: Iterable[int]) -> None:
        """places: indices into rows."""
        self._rows, self._places = rows, list(places)

    @staticmethod
    def where(rows: Sequence[Item], wanted: Callable[[Item], bool]) -> Part[Item]:
        """Those of which a condition holds; every row is read once for it."""
        return Part(rows, (n for n, row in enumerate(rows) if wanted(row)))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._places)

    def row(self, place: int) -> Item:
        """A row of the sequence."""
        return self._rows[self._places[place]]
