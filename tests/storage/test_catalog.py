from dataclasses import replace

import pytest

from storage.catalog import CatalogError, Found, blocks, changed_share, live_blocks, load, reconcile, save
from storage.store import Store


def found(n, **changes):
    item = Found(f"dent/{n:03d}.png", ("dent",), f"{n:064x}", 100 + n, 1, width=20, height=10)
    return replace(item, **changes)


def start(count=10):
    rows, changes = reconcile([], [found(n) for n in range(count)], 4, 0.05)
    assert len(changes.new) == count
    return rows


def test_the_catalog_comes_back_as_saved(tmp_path):
    store = Store(tmp_path)
    assert load(store) == []
    save(store, start())
    assert load(store) == start()


def test_blocks_hold_at_most_the_given_number_and_never_change():
    rows = start(10)
    before = {name: [row.id for row in part] for name, part in blocks(rows).items()}
    assert sorted(map(len, before.values())) == [2, 4, 4]
    rows, _ = reconcile(rows, [found(n) for n in range(1, 15)], 4, 0.5)
    after = {name: [row.id for row in part] for name, part in blocks(rows).items()}
    assert before.items() <= after.items()


def test_the_same_again_changes_nothing():
    rows = start()
    again, changes = reconcile(rows, [found(n) for n in range(10)], 4, 0.05)
    assert again == rows
    assert not changes


def test_a_new_label_keeps_the_row():
    rows = start()
    again, changes = reconcile(rows, [found(0, labels=("blob",))] + [found(n) for n in range(1, 10)], 4, 0.05)
    assert changes.relabelled == ("dent/000.png",)
    assert again[0].labels == ("blob",)
    assert again[0].block == rows[0].block


def test_a_changed_image_is_a_new_row_in_a_new_block():
    rows = start()
    again, changes = reconcile(rows, [found(0, sha256="f" * 64)] + [found(n) for n in range(1, 10)], 4, 0.05)
    assert changes.changed == ("dent/000.png",)
    assert again[0].status == "retired"
    assert again[0].why == "replaced"
    assert again[-1].block not in blocks(rows)


def test_a_renamed_file_keeps_its_row():
    rows = start()
    moved = found(0, path="dent/renamed.png")
    again, changes = reconcile(rows, [moved] + [found(n) for n in range(1, 10)], 4, 0.05)
    assert changes.moved == ("dent/renamed.png",)
    assert not changes.removed
    assert again[0].path == "dent/renamed.png"
    assert again[0].status == "active"


def test_a_removed_image_is_retired_and_comes_back_to_its_place():
    rows = start(40)
    gone, changes = reconcile(rows, [found(n) for n in range(1, 40)], 4, 0.05)
    assert changes.removed == ("dent/000.png",)
    assert gone[0].status == "retired"
    back, changes = reconcile(gone, [found(n) for n in range(40)], 4, 0.05)
    assert changes.new == ("dent/000.png",)
    assert (back[0].status, back[0].block) == ("active", rows[0].block)
    assert len(back) == 40


def test_many_gone_at_once_stop_the_run():
    with pytest.raises(CatalogError, match=r"data\.max_gone"):
        reconcile(start(), [found(n) for n in range(5)], 4, 0.05)


def test_an_unreadable_image_is_quarantined_until_it_changes():
    bad = found(0, unreadable="truncated")
    rows, changes = reconcile([], [bad, found(1)], 4, 0.05)
    assert changes.quarantined == ("dent/000.png",)
    assert (rows[0].status, rows[0].why, rows[0].block) == ("quarantined", "truncated", "")
    again, changes = reconcile(rows, [bad, found(1)], 4, 0.05)
    assert (again, bool(changes)) == (rows, False)
    mended, changes = reconcile(rows, [found(0, sha256="e" * 64), found(1)], 4, 0.05)
    assert changes.changed == ("dent/000.png",)
    assert mended[-1].status == "active"


def test_blocks_without_an_active_image_are_no_work():
    rows = [replace(row, status="retired") for row in start(4)]
    assert live_blocks(rows) == {}


def test_changed_share_counts_both_sides():
    assert changed_share({}, {}) == 0
    assert changed_share({"a": "1", "b": "1"}, {"a": "1", "b": "2", "c": "1", "d": "1"}) == 0.75
    assert changed_share({"a": "1", "b": "1", "c": "1", "d": "1"}, {"a": "1", "b": "1"}) == 0.5


def test_an_image_in_the_place_of_another_is_one_changed_image():
    before = {"a": "1", "b": "1", "c": "1", "d": "1"}
    assert changed_share(before, {"a": "1", "b": "1", "c": "1", "e": "1"}) == 0.25
    assert changed_share(before, dict.fromkeys("efgh", "1")) == 1


def test_equal_images_are_neighbours_so_that_their_block_encodes_them_once():
    twins = [found(0), found(7, sha256=f"{0:064x}"), *(found(n) for n in range(1, 7))]
    rows, _ = reconcile([], sorted(twins, key=lambda item: item.path), 2, 0.05)
    of = {row.path: row.block for row in rows}
    assert of["dent/000.png"] == of["dent/007.png"]
