import json

import numpy as np
import pytest

from storage.arrays import ArraySpec, read_array
from storage.store import Store, StoreError

P = ArraySpec(name="p", dims=("image", "y", "x"), dtype="uint8", kind="label map", description="P", fill=255)


def commit(store, fingerprint="f1", value=1, block="b000000"):
    return store.commit(
        "fuse",
        block,
        fingerprint,
        [P],
        {"p": np.full((2, 8, 8), value, np.uint8)},
        reasons={"config": fingerprint},
        attributes={},
        failed={},
        seconds=1.0,
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_receipt_comes_back_as_it_was_written(store):
    receipt = commit(store)
    assert store.receipt("fuse", "b000000") == receipt
    assert store.receipts("fuse") == {"b000000": receipt}
    np.testing.assert_array_equal(store.read(receipt, "p"), np.ones((2, 8, 8)))
    np.testing.assert_array_equal(store.read_image(receipt, "p", 1), np.ones((8, 8)))


def test_last_nights_arrays_stay_readable_beside_tonights(store):
    before = commit(store, "f1", 1)
    after = commit(store, "f2", 2)
    assert store.read(before, "p").max() == 1
    assert store.read(after, "p").max() == 2
    kept = json.loads((store.root / "receipts/fuse/b000000.prev.json").read_text())
    assert kept["fingerprint"] == "f1"
    assert set(store.receipts("fuse")) == {"b000000"}


def test_a_lost_file_is_never_read_as_no_defect(store):
    receipt = commit(store)
    shard = next(path for path in (store.root / receipt.group / "p" / "c").rglob("*") if path.is_file())
    shard.unlink()
    assert not store.intact(receipt)
    with pytest.raises(StoreError, match="damaged"):
        store.read(receipt, "p")


def test_what_vanishes_while_it_is_read_is_noticed(store, monkeypatch):
    """Of a large array shards are read one after the other, and a viewer reads without a lock."""
    receipt = commit(store)

    def vanishing(place, name, rows):
        next(path for path in (store.root / receipt.group / "p" / "c").rglob("*") if path.is_file()).unlink()
        return read_array(place, name, rows)

    monkeypatch.setattr("storage.store.read_array", vanishing)
    with pytest.raises(StoreError, match="vanished"):
        store.read(receipt, "p")


def test_a_truncated_file_is_never_read(store):
    receipt = commit(store)
    shard = next(path for path in (store.root / receipt.group / "p" / "c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-3])
    assert not store.intact(receipt)
    with pytest.raises(StoreError, match="damaged"):
        store.read_image(receipt, "p", 0)


def test_a_torn_receipt_proves_nothing(store):
    commit(store)
    path = store.root / "receipts/fuse/b000000.json"
    path.write_text(path.read_text()[:40])
    assert store.receipt("fuse", "b000000") is None


def test_a_crashs_garbage_gives_way(store):
    commit(store)
    (store.root / "receipts/fuse/b000000.json").unlink()
    receipt = commit(store)
    assert store.read(receipt, "p").max() == 1
    (store.root / "arrays/fuse/b000000/x.zarr.partial").mkdir()
    assert store.objects.sweep() == 1


def test_failures_go_when_the_block_succeeds(store):
    store.record_failure("fuse", "b000000", "out of memory")
    assert store.failures("fuse")["b000000"].error == "out of memory"
    assert store.receipts("fuse") == {}
    commit(store)
    assert store.failures("fuse") == {}


def test_a_dropped_group_says_so(store):
    receipt = commit(store)
    dropped = store.drop(receipt, "p")
    assert store.receipt("fuse", "b000000") == dropped
    assert store.intact(dropped)
    assert not (store.root / receipt.group / "p").exists()
    assert dropped.arrays == receipt.arrays
    with pytest.raises(StoreError, match="not kept"):
        store.read(dropped, "p")


def test_class_indices_once_given_stay(store):
    assert store.add_classes(["scratch", "dent"]) == ["scratch", "dent"]
    assert store.add_classes(["blob", "scratch"]) == ["scratch", "dent", "blob"]
    with pytest.raises(StoreError, match="254"):
        store.add_classes([str(n) for n in range(255)])


def test_no_store_is_a_clear_error(tmp_path):
    with pytest.raises(StoreError, match="bluemask run"):
        Store.existing(tmp_path)
