"""Flipped bits, truncated and deleted files: all found, none read as data, all repaired."""

import numpy as np
import pytest
from pinned_site import FULL, draw

from flows.upkeep import mend
from storage.catalog import load
from storage.documents import DamagedError
from storage.store import StoreError
from storage.verify import verify
from tasks.registry import stages

ROUNDS = 200 if FULL else 24
KINDS = ("flip", "cut", "delete")


def targets(site):
    """Every file whose bytes count: arrays, receipts, documents and their copies, by kind in turn."""
    root = site.store.root
    groups = [root / r.group for s in stages() for r in site.store.receipts(s.name).values()]
    arrays = sorted(path for group in groups for path in group.rglob("*") if path.is_file())
    receipts = sorted(path for path in (root / "receipts").rglob("*.json") if "." not in path.stem)
    documents = sorted(path for path in (root / "copies").rglob("*") if path.is_file())
    documents += [root / name for name in ("catalog.parquet", "classes.json", "config.yaml")]
    return arrays, receipts, documents


def harm(path, kind, rng):
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(bytes(data[: int(rng.integers(0, len(data)))]))
    else:
        data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(bytes(data))


def reads_only_truth(site, truth):
    """Read every array of every block as a run would: what comes back is what was written, or an error."""
    for stage in stages():
        for block, receipt in site.store.receipts(stage.name).items():
            for name in receipt.arrays:
                try:
                    value = site.store.read(receipt, name)
                except StoreError:
                    continue
                np.testing.assert_array_equal(value, truth[stage.name, block, name])


def everything(site):
    return {
        (stage.name, block, name): site.store.read(receipt, name)
        for stage in stages()
        for block, receipt in site.store.receipts(stage.name).items()
        for name in receipt.arrays
    }


@pytest.mark.timeout(7200 if FULL else 300)
def test_all_damage_is_found_never_read_and_repaired(site, tell):
    rng = np.random.default_rng(0)
    truth, digests, rows = everything(site), site.digests(), load(site.store)
    found = 0
    for n in range(ROUNDS):
        pool = targets(site)[n % 3]
        path = pool[int(rng.integers(0, len(pool)))]
        kind = KINDS[int(rng.integers(0, 3))]
        harm(path, kind, rng)
        what = f"{kind} of {path.relative_to(site.store.root)}"
        assert list(verify(site.store)), f"{what} was not found"
        found += 1
        reads_only_truth(site, truth)
        with site.store.writing():
            _, left = mend(site.store)
        assert not left, f"{what} was not repaired: {left}"
        assert site.digests() == digests, what
    assert load(site.store) == rows
    tell(
        "bit flips, truncated and deleted chunks, receipts, catalog",
        ROUNDS,
        f"{found} found, none read, all repaired",
    )


def test_a_damaged_catalog_is_refused_in_words(site):
    path = site.store.root / "catalog.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedError, match=r"catalog\.parquet is damaged.*verify STORE --repair"):
        load(site.store)


def test_a_separator_flipped_in_zarrs_own_file_is_no_empty_label(site):
    # '/' and '.' differ by one bit: with it every chunk would be looked for elsewhere, and read as fill
    receipt = next(iter(site.store.receipts("fuse").values()))
    path = site.store.root / receipt.group / "confidence" / "zarr.json"
    path.write_text(path.read_text().replace('"separator": "/"', '"separator": "."'))
    assert site.store.intact(receipt), "the size is the same"
    with pytest.raises(StoreError, match=r"zarr\.json is not what was written"):
        site.store.read(receipt, "confidence")


def test_ingest_is_not_repaired_from_another_image(site):
    row = next(row for row in load(site.store) if row.status == "active")
    digests = site.digests()
    receipt = site.store.receipt("ingest", row.block)
    shard = next(p for p in (site.store.root / receipt.group / "image" / "c").rglob("*") if p.is_file())
    harm(shard, "cut", np.random.default_rng(0))
    original = (site.images / row.path).read_bytes()
    draw(site.images, row.path, 77)
    with site.store.writing():
        _, left = mend(site.store)
    assert left
    assert "changed while" in left[0].why
    assert site.digests() == digests, "the label that was made from it stays"
    (site.images / row.path).write_bytes(original)
    with site.store.writing():
        _, left = mend(site.store)
    assert not left
    assert site.digests() == digests


def test_what_a_crash_leaves_is_no_damage_after_the_next_run(site):
    (site.store.root / "arrays/fuse/b000000/x.zarr.partial").mkdir()
    (site.store.root / "receipts/fuse/b000000.json.1.partial").write_bytes(b"{")
    assert site.finish() == {}
    assert not list(site.store.root.rglob("*.partial"))
    assert list(verify(site.store)) == []
