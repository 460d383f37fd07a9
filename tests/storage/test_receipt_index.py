"""The index saves reading, and never says what the receipts do not."""

import os

import numpy as np
import pytest

from storage import index
from storage.arrays import ArraySpec
from storage.store import Store

SPEC = ArraySpec(name="x", dims=("image",), dtype="uint8", kind="number", description="one number an image")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    for n in range(4):
        commit(store, n, 0)
    store.write_index("s")
    return store


def commit(store, n, value):
    return store.commit(
        "s", f"b{n:06d}", f"f{value}", [SPEC], {"x": np.full(3, value, np.uint8)},
        reasons={"version": str(value)}, attributes={}, failed={}, seconds=0,
    )  # fmt: skip


def reads(store, monkeypatch):
    """Keys that `receipts` reads, and what it gives."""
    seen, get = [], store.objects.get
    monkeypatch.setattr(store.objects, "get", lambda key: seen.append(key) or get(key))
    found = store.receipts("s")
    monkeypatch.undo()
    return seen, found


def test_one_object_is_read_for_all_receipts(store, monkeypatch):
    seen, found = reads(store, monkeypatch)
    assert seen == [f"receipts/s/{index.NAME}"]
    assert found == {block: store.receipt("s", block) for block in found}
    assert len(found) == 4


def test_what_changed_since_is_read_anew(store, monkeypatch):
    new = commit(store, 1, 7)
    (store.root / "receipts/s/b000003.json").unlink()
    commit(store, 4, 1)
    seen, found = reads(store, monkeypatch)
    assert seen == [f"receipts/s/{name}" for name in (index.NAME, "b000001.json", "b000004.json")]
    assert sorted(found) == ["b000000", "b000001", "b000002", "b000004"]
    assert found["b000001"] == new


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_or_lost_index_costs_time_alone(store, damage):
    path = store.root / "receipts/s" / index.NAME
    whole = store.receipts("s")
    data = path.read_bytes()
    path.write_bytes(data[:-5] if damage is None else damage)
    assert store.receipts("s") == whole
    path.unlink()
    assert store.receipts("s") == whole


def test_an_index_that_is_up_to_date_is_not_written_again(store):
    path = store.root / "receipts/s" / index.NAME
    os.utime(path, (1, 1))
    store.write_index("s")
    assert path.stat().st_mtime == 1
    commit(store, 0, 9)
    store.write_index("s")
    assert path.stat().st_mtime > 1


def test_an_array_that_is_not_kept_leaves_its_digest_and_no_byte(store):
    values = {"x": np.full(3, 5, np.uint8)}
    arguments = {"reasons": {}, "attributes": {}, "failed": {}, "seconds": 0}
    kept = store.commit("t", "b000000", "kept", [SPEC], values, **arguments)
    gone = store.commit("t", "b000000", "gone", [SPEC], values, **arguments, dropped=["x"])
    assert gone.arrays == kept.arrays
    assert gone.dropped == ("x",)
    assert not any(name.startswith("x/") for name in gone.files)
    assert store.intact(gone)
