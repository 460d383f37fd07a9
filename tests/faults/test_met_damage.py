"""Damage that somebody meets while reading is known from then on: `status` tells it, and the next run mends it."""

import io
import shutil
import time

import pytest
from rich.console import Console
from small_run import Silent

from flows.browse import open_backend, open_index
from flows.forecast import print_plan
from flows.outputs import finished, outdated_labels
from flows.steps import Run
from flows.summary import plan_of, print_status
from flows.upkeep import _remember, mend, verify_store
from storage import store as store_module
from storage.catalog import load
from storage.damage import FOLDER, advice, damages, forget_mended, note
from storage.objects import LocalObjects, StoreUnwritableError
from storage.store import StoreError
from storage.verify import Finding, verify
from tasks.registry import stage, stages

BLOCK = "b000000"


def harm(site, stage, name):
    """Flip a bit of an array's shard, so that its size stays. Returns the receipt through which it is read."""
    receipt = site.store.receipt(stage, BLOCK)
    shard = max((site.store.root / receipt.group / name / "c").rglob("*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert site.store.intact(receipt), "nobody sees it without reading"
    return receipt


def meet(site, stage, name):
    receipt = harm(site, stage, name)
    with pytest.raises(StoreError, match="is damaged"):
        site.store.read(receipt, name)
    return receipt


def said(action, *words):
    sink = io.StringIO()
    action(*words, Console(file=sink, width=300))
    return sink.getvalue()


def close(site):
    """What a run does in the end."""
    with site.store.writing():
        Run(site.store, site.config, Silent()).close()


def kept():
    """A stage's first array on disk, of every stage that keeps one."""
    return [(stage.name, stage.writes[0].name) for stage in stages()]


def test_damage_that_was_met_is_told_and_mended_by_the_next_run(site, tell):
    digests, before = site.digests(), harm(site, "fuse", "p")
    assert site.todo() == {}, "nobody has read it yet"
    assert "is damaged" not in said(print_status, site.store.root)
    with pytest.raises(StoreError, match="is damaged"):
        _ = [site.store.read_image(before, "p", n) for n in range(before.images)]
    words = f"fuse {BLOCK} is damaged: {before.group}/p/c/"
    assert words in said(print_status, site.store.root)
    assert words in said(lambda path, console: print_plan(path, console, Console(quiet=True)), site.path)
    assert site.todo() == {"fuse": 4}
    with site.store.writing():
        assert any(words in problem for problem in Run(site.store, site.config, Silent()).catalogue.problems)
    assert site.finish() == {"fuse": 1}
    assert site.digests() == digests
    assert list(verify(site.store)) == []
    assert damages(site.store) == []
    assert "is damaged" not in said(print_status, site.store.root)
    assert site.finish() == {}
    assert list(site.store.objects.list(FOLDER))
    close(site)
    assert not list(site.store.objects.list(FOLDER)), "a note that says nothing any more goes"
    tell("a flipped bit that an export or a page meets", 1, "told by status, mended by the next run")


@pytest.mark.parametrize(("stage", "name"), kept())
def test_whatever_stage_made_it(site, stage, name):
    digests = site.digests()
    meet(site, stage, name)
    assert [(damage.stage, damage.block) for damage in damages(site.store)] == [(stage, BLOCK)]
    done = site.finish()
    assert done[stage] == 1
    assert site.digests() == digests, "what reads it stays as it was"
    assert done == {stage: 1}
    assert list(verify(site.store)) == []


def test_the_same_is_advised_wherever_it_is_told(site):
    """First the run that mends it by itself, then certainty about the rest."""
    receipt, root = harm(site, "fuse", "p"), site.store.root
    with pytest.raises(StoreError) as met:
        site.store.read(receipt, "p")
    wanted = advice(site.store.name)
    assert wanted.index("bluemask run") < wanted.index("--repair")
    assert str(met.value).endswith(wanted)
    assert wanted in said(print_status, root)
    assert wanted in said(lambda path, console: print_plan(path, console, Console(quiet=True)), site.path)
    with site.store.writing():
        problems = Run(site.store, site.config, Silent()).catalogue.problems
    assert any(problem.endswith(advice(site.store.name, "this run")) for problem in problems)
    told = said(lambda *words: verify_store(*words, repair=False), root)
    assert f"`bluemask verify {site.store.name} --repair` mends it; so does the next `bluemask run`" in told


def test_what_no_run_mends_is_for_a_repair_alone(site, monkeypatch):
    (site.store.root / "classes.json").write_text("[]")
    told = said(lambda *words: verify_store(*words, repair=False), site.store.root)
    assert "--repair` mends it\n" in told
    receipt = harm(site, "fuse", "p")
    monkeypatch.setattr(
        "storage.damage.LocalObjects", type("Elsewhere", (), {})
    )  # no notes in an object store
    with pytest.raises(StoreError, match=r"; `bluemask verify \S+ --repair` makes it anew$"):
        site.store.read(receipt, "p")


def test_what_could_not_be_read_though_it_is_sound_is_not_called_damaged(site, monkeypatch):
    receipt = site.store.receipt("fuse", BLOCK)

    def away(*_):
        raise TimeoutError("the share is away")

    monkeypatch.setattr(store_module, "read_array", away)
    with pytest.raises(StoreError, match="the share is away"):
        site.store.read(receipt, "p")
    assert damages(site.store) == []
    assert not list(site.store.objects.list(FOLDER))


def test_what_was_replaced_while_it_was_read_is_not_called_damaged(site):
    before = harm(site, "fuse", "p")
    with site.store.writing():
        mend(site.store)
    with pytest.raises(StoreError):
        site.store.read(before, "p")
    assert not list(site.store.objects.list(FOLDER))


def test_an_array_that_is_dropped_while_it_is_read_is_not_called_damaged(site):
    before = site.store.receipt("embed", BLOCK)
    with site.store.writing():
        site.store.drop(before, "embedding")
    with pytest.raises(StoreError):
        site.store.read(before, "embedding")
    assert damages(site.store) == []


def test_who_may_not_write_is_told_all_the_same(site, monkeypatch):
    def refused(*_):
        raise StoreUnwritableError("read-only")

    store = site.store
    receipt = harm(site, "fuse", "p")
    monkeypatch.setattr(store.objects, "put", refused)
    with pytest.raises(StoreError, match="is damaged"):
        store.read(receipt, "p")
    assert damages(site.store) == []


def test_a_note_that_was_changed_says_nothing(site):
    meet(site, "fuse", "p")
    path = next((site.store.root / FOLDER).iterdir())
    path.write_text(path.read_text().replace(BLOCK, "b000001"))
    assert damages(site.store) == []
    assert site.todo() == {}


def test_verify_notes_what_it_finds_and_a_repair_forgets_it(site):
    harm(site, "cam", "cam")
    assert verify_store(site.store.root, Console(quiet=True), repair=False) == 1
    assert site.todo()["cam"] == 4
    assert verify_store(site.store.root, Console(quiet=True), repair=True) == 0
    assert not list(site.store.objects.list(FOLDER))
    assert site.todo() == {}


def test_an_export_that_meets_it_has_it_mended(site):
    digests = site.digests()
    harm(site, "fuse", "p")
    result = site.call("export", str(site.store.root), str(site.root / "labels"))
    assert result.returncode != 0
    assert "is damaged" in result.stderr
    assert site.finish() == {"fuse": 1}
    assert site.digests() == digests
    assert site.call("export", str(site.store.root), str(site.root / "again")).returncode == 0


def test_a_page_that_meets_it_shows_the_block_as_stale(site):
    backend = open_backend(site.store.root, open_index(site.store.root), None)

    def shown():
        blocks = backend.index.blocks()
        return {
            item["state"]: item["why"] for item in blocks if (item["stage"], item["block"]) == ("fuse", BLOCK)
        }

    assert backend.refresher.run()
    assert shown() == {"fresh": ""}
    harm(site, "fuse", "p")
    assert not backend.refresher.run(), "nobody has read it yet"
    for row in load(site.store):
        backend.thumbnail_of(row.id)
    assert backend.refresher.run()
    assert shown()["stale"].endswith("is not what was written")
    site.finish()
    backend.refresher.run()
    assert shown() == {"fresh": ""}


def test_a_damaged_image_whose_file_is_gone_keeps_its_label(site):
    """Nothing is made from the black image that stands for a lost one."""
    files = [site.images / row.path for row in load(site.store) if row.block == BLOCK]
    label = site.store.receipt("fuse", BLOCK)
    meet(site, "ingest", "image")
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        for file in files:  # after the look
            file.unlink()
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        summary = run.close()
    assert f"ingest {BLOCK}" in summary.failures
    assert site.store.receipt("fuse", BLOCK) == label
    assert [damage.stage for damage in damages(site.store)] == ["ingest"], "still to be mended"


def test_another_look_at_it_writes_nothing(site):
    receipt = meet(site, "fuse", "p")
    path = next((site.store.root / FOLDER).iterdir())
    before = path.stat().st_mtime_ns
    note(site.store.objects, receipt, "p")
    assert path.stat().st_mtime_ns == before


def test_what_reads_a_damaged_array_is_still_exported(site):
    """P is sound, whatever became of the CAM that it was made from."""
    before = len(finished(site.store, site.config))
    meet(site, "cam", "cam")
    plan = plan_of(site.store, site.config)
    assert (plan.state(stage("cam"), BLOCK), plan.state(stage("fuse"), BLOCK)) == ("stale", "fresh")
    assert len(finished(site.store, site.config)) == before
    assert outdated_labels(site.store, plan) == []


def test_a_file_that_was_brought_back_is_no_damage_any_more(site):
    receipt = site.store.receipt("fuse", BLOCK)
    shard = max((site.store.root / receipt.group / "p" / "c").rglob("*"))
    sound = shard.read_bytes()
    meet(site, "fuse", "p")
    shard.write_bytes(sound)
    assert verify_store(site.store.root, Console(quiet=True), repair=True) == 0
    assert not list(site.store.objects.list(FOLDER))
    assert site.todo() == {}


def test_a_lost_group_that_was_made_anew_under_its_name_is_sound(site):
    receipt = site.store.receipt("cam", BLOCK)
    shutil.rmtree(site.store.root / receipt.group)
    assert verify_store(site.store.root, Console(quiet=True), repair=False) == 1
    assert damages(site.store)
    time.sleep(1)  # receipts tell the second
    assert verify_store(site.store.root, Console(quiet=True), repair=True) == 0
    assert site.store.receipt("cam", BLOCK).group == receipt.group
    assert damages(site.store) == []
    assert site.todo() == {}


def test_an_error_that_passes_is_no_damage(site, monkeypatch):
    receipt = harm(site, "fuse", "p")

    def crowded(*_):
        raise OSError(24, "Too many open files")

    store = site.store
    monkeypatch.setattr(store.objects, "get", crowded)
    note(store.objects, receipt, "p")
    monkeypatch.undo()
    assert not list(site.store.objects.list(FOLDER))


def test_notes_of_another_user_stop_nobody(site, monkeypatch):
    """Who browses makes them; the nightly user may neither list nor remove them."""
    meet(site, "fuse", "p")

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("list", "delete"):
        store = site.store
        monkeypatch.setattr(store.objects, name, refused)
        forget_mended(store)
        monkeypatch.undo()
        assert len(damages(site.store)) == 1
    monkeypatch.setattr(LocalObjects, "list", refused)
    assert damages(site.store) == []


def test_what_was_dropped_while_it_was_verified_is_not_called_damaged(site):
    receipt = site.store.receipt("embed", BLOCK)
    file = next(name for name in receipt.files if name.startswith("embedding/"))
    with site.store.writing():
        site.store.drop(receipt, "embedding")
    _remember(site.store, [Finding("array", f"{receipt.group}/{file}", "is lost", "embed", BLOCK)])
    assert not list(site.store.objects.list(FOLDER))


def test_a_repair_says_what_it_cannot_bring_back(site):
    """Labels as they were before: nothing is damaged without them, and what changed is not known any more."""
    site.change(fuse={"views": 4})
    site.finish()
    previous = site.store.previous("fuse", BLOCK)
    assert previous is not None
    max((site.store.root / previous.group / "p" / "c").rglob("*")).unlink()
    mended = said(lambda *words: verify_store(*words, repair=True), site.store.root)
    assert "1 damaged, 1 repaired" in mended
    assert (
        "1 block without the arrays before the present ones: which labels changed there last night is not known"
        in mended
    )
    assert "before the present ones" not in said(
        lambda *words: verify_store(*words, repair=True), site.store.root
    )
