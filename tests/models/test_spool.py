"""Rows on disk come back as they were, and take no memory."""

from typing import NamedTuple

import numpy as np
import pytest

from models.spool import Part, Spool


class Row(NamedTuple):
    image: np.ndarray
    nothing: np.ndarray | None
    name: str


def rows(count):
    rng = np.random.default_rng(0)
    return [
        Row(rng.normal(size=(n % 3, 4)).astype(np.float16), None if n % 2 else np.arange(n), f"row {n}")
        for n in range(count)
    ]


def same(a, b):
    assert type(a) is type(b) is Row
    for mine, other in zip(a, b, strict=True):
        if isinstance(other, np.ndarray):
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(mine, other)
        else:
            assert mine == other


def test_rows_come_back_in_any_order(tmp_path):
    given, spool = rows(9), Spool(Row, tmp_path)
    spool.extend(given)
    assert len(spool) == 9
    for n in (8, 0, 3, -1):
        same(spool[n], given[n])
    spool.append(given[4])
    same(spool[9], given[4])
    for mine, other in zip(spool[::3], (*given[::3], given[4]), strict=True):
        same(mine, other)
    with pytest.raises(IndexError):
        spool[10]
    spool[3].image[:] = 0
    same(spool[3], given[3])


def test_nothing_is_left_behind(tmp_path):
    spool = Spool(Row, tmp_path)
    spool.extend(rows(3))
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_read_when_asked_for(tmp_path):
    spool = Spool(Row, tmp_path)
    spool.extend(rows(9))
    odd = Part.where(spool, lambda row: row.nothing is None)
    assert [row.name for row in odd] == ["row 1", "row 3", "row 5", "row 7"]
    assert odd[-1].name == "row 7"
    assert [row.name for row in odd[1:3]] == ["row 3", "row 5"]
    assert len(Part.where(spool, lambda row: row.name == "")) == 0


def test_memory_does_not_grow_with_the_rows(tmp_path):
    import tracemalloc

    spool, one = Spool(Row, tmp_path), Row(np.zeros((256, 1024), np.float32), None, "")
    tracemalloc.start()
    for _ in range(64):
        spool.append(one)
    total = sum(float(row.image.sum()) for row in spool)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 0
    assert peak < 4 * one.image.nbytes, "64 of them would take 64 MB"
