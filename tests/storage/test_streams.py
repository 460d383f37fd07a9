import threading
import tracemalloc

import numpy as np
import pytest

from storage.arrays import ArraySpec, read_array
from storage.store import Store, StoreError
from storage.streams import Streamed

SPEC = ArraySpec(
    name="embedding",
    dims=("image", "view", "d", "h", "w"),
    dtype="float16",
    kind="embedding",
    description="SAM's",
)


@pytest.fixture
def value(monkeypatch):
    """(40, 2, 16, 32, 32): 64 kB an image, of which two share a shard."""
    monkeypatch.setattr("storage.arrays.PIECE", 128 << 10)
    return np.random.default_rng(0).random((40, 2, 16, 32, 32)).astype(np.float16)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def receipt(store, value):
    return store.commit(
        "embed", "000", "f", [SPEC], {"embedding": value}, reasons={}, attributes={}, failed={}, seconds=0
    )


def test_it_gives_what_was_written(store, receipt, value):
    found = Streamed(store, receipt, "embedding")
    assert (len(found), found.shape) == (40, value.shape)
    for n in range(40):
        np.testing.assert_array_equal(found[n], value[n])


def test_in_any_order_and_again(store, receipt, value):
    found = Streamed(store, receipt, "embedding")
    for n in [0, 39, 3, 2, 0, 1, 5, 5]:
        np.testing.assert_array_equal(found[n], value[n])
    with pytest.raises(IndexError):
        found[40]


def test_each_shard_is_read_once_and_before_it_is_wanted(store, receipt, monkeypatch):
    read, begun = [], threading.Semaphore(0)

    def noted(place, name, rows):
        read.append((rows.start, threading.current_thread() is threading.main_thread()))
        begun.release()
        return read_array(place, name, rows)

    monkeypatch.setattr("storage.store.read_array", noted)
    found = Streamed(store, receipt, "embedding")
    for n in range(40):
        if n % 2 == 0:  # of the shard that the next image is in: nobody has asked for it yet
            assert begun.acquire(timeout=20)
        found[n]
    assert read == [(n, False) for n in range(0, 40, 2)]


def test_it_holds_a_few_images_at_a_time(store, receipt, value):
    def peak(read):
        tracemalloc.start()
        read()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def through():
        found = Streamed(store, receipt, "embedding")
        for n in range(40):
            found[n]

    through()  # what is imported on the way
    assert peak(through) < 0.4 * peak(lambda: store.read(receipt, "embedding"))


def test_damage_is_told(store, receipt):
    found = Streamed(store, receipt, "embedding")
    found[1]
    found[2]  # 4 and 5 are perhaps read by now
    shard = store.root / receipt.group / "embedding/c/3/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        found[6]


def test_an_older_store_has_one_shard(store, value, monkeypatch):
    monkeypatch.setattr("storage.arrays.PIECE", 1 << 30)
    receipt = store.commit(
        "embed", "000", "f", [SPEC], {"embedding": value}, reasons={}, attributes={}, failed={}, seconds=0
    )
    monkeypatch.setattr("storage.arrays.PIECE", 128 << 10)
    found = Streamed(store, receipt, "embedding")
    for n in range(40):
        np.testing.assert_array_equal(found[n], value[n])


def test_where_memory_did_not_suffice_once_it_is_read_again(store, receipt, value, monkeypatch):
    """And is told as what it is: a batch can be halved, a damaged file cannot."""
    short = [True]

    def reading(place, name, rows):
        if rows.start == 4 and short:
            short.pop()
            raise MemoryError("Unable to allocate 128 kB")
        return read_array(place, name, rows)

    monkeypatch.setattr("storage.store.read_array", reading)
    found = Streamed(store, receipt, "embedding")
    found[3]
    with pytest.raises(MemoryError):
        found[4]
    np.testing.assert_array_equal(found[4], value[4])
