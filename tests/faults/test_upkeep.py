"""What looks after a store: plan, rerun, rollback, prune."""

import io
import json
import shutil

import pytest
from pinned_site import draw
from rich.console import Console
from small_run import Silent

from flows import promotion
from flows.config import load_config
from flows.forecast import print_plan
from flows.outcome import Selection
from flows.rerun import rerun_stage
from flows.steps import Run
from flows.upkeep import prune_store
from storage.catalog import load
from storage.store import StoreError
from storage.verify import verify
from tasks.registry import stages


def said(action, *words):
    sink = io.StringIO()
    action(*words, Console(file=sink, width=200), Console(file=io.StringIO()))
    return sink.getvalue()


def snapshot(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


# -- plan -------------------------------------------------------------------------------------------------


def test_plan_says_why_and_writes_nothing(site):
    before = snapshot(site.store.root)
    assert "nothing to do" in said(print_plan, site.path)
    assert "which is another one" not in said(print_plan, site.path)
    draw(site.images, "dent/new.png", 99)
    shutil.move(site.images / "blob" / "000.png", site.images / "scratch" / "000.png")
    site.change(ensemble={"votes": 2})
    text = said(print_plan, site.path)
    assert "1 new: dent/new.png" in text
    assert "1 moved" in text or "1 relabelled" in text
    for reason in ("never done", "labels", "config", "waits for what it reads"):
        assert reason in text, reason
    assert snapshot(site.store.root) == before


def test_plan_of_a_new_store_makes_no_folder(site):
    site.change(store="elsewhere")
    assert "never done" in said(print_plan, site.path)
    assert not (site.root / "elsewhere").exists()


# -- rerun ------------------------------------------------------------------------------------------------


def rerun(site, selection):
    with site.store.writing():
        run = Run(site.store, site.config, Silent(), selection=selection)
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        return dict(run.close().done)


def test_rerun_does_one_stage_of_the_named_images_block(site):
    row = next(row for row in load(site.store) if row.status == "active")
    before, digests = site.store.receipt("mask", row.block), site.digests()
    assert rerun(site, Selection("mask", images=(row.path,))) == {"mask": 1}
    after = site.store.receipt("mask", row.block)
    assert (after.fingerprint, after.group) != (before.fingerprint, before.group)
    assert site.digests() == digests
    assert site.finish() == {}
    assert list(verify(site.store)) == []


def test_rerun_failed_takes_failed_blocks_alone(site):
    assert rerun(site, Selection("mask", failed=True)) == {}
    block = min(site.store.receipts("mask"))
    site.store.record_failure("mask", block, "out of luck")
    assert rerun(site, Selection("mask", failed=True)) == {"mask": 1}
    assert site.store.failures("mask") == {}


@pytest.mark.parametrize(("stage", "images"), [("nothing", ()), ("mask", ("none.png",))])
def test_rerun_names_what_is_not_there(site, stage, images):
    with pytest.raises(StoreError, match=r"nothing|none\.png"):
        rerun(site, Selection(stage, images=images))


# -- rollback and promotion -------------------------------------------------------------------------------


def test_a_candidate_is_promoted_only_where_no_figure_falls():
    before = {"consensus": 0.9, "shown": 1.0}
    assert promotion.compare(before, {"consensus": 0.88, "shown": 1.0}, 0.05).good
    verdict = promotion.compare(before, {"consensus": 0.9, "shown": 0.5}, 0.05)
    assert not verdict.good
    assert "shown 1.000 → 0.500" in verdict.why


def unpin(site):
    """A site whose pinned networks become promoted ones, as if they had been trained."""
    known = json.loads(json.dumps(site.store.read_json("promoted.json") or {}))
    for kind in ("vit", "fusion"):
        path = site.root / f"{kind}.safetensors"
        digest = promotion.digest(path)
        site.store.add_checkpoint(digest, path.read_bytes())
        promotion.promote(
            site.store, kind, {"digest": digest, "run": f"{kind}1", "config": "c", "classes": 3, "data": {}}
        )
        site.change(**{f"train_{kind}": {"checkpoint": None}})
    site.change(retrain={"policy": "never"})
    return known


def test_rollback_puts_the_network_before_back_with_its_arrays(site, tmp_path):
    from models.vit import build_vit, save_vit

    unpin(site)
    config, digests = site.config, site.digests()
    groups = {block: receipt.group for block, receipt in site.store.receipts("cam").items()}
    other = tmp_path / "other.safetensors"
    key = save_vit(other, build_vit("tiny", 3, side=64, objectness=True, seed=5), {})
    site.store.add_checkpoint(key, other.read_bytes())
    promotion.promote(
        site.store, "vit", {"digest": key, "run": "vit2", "config": "c", "classes": 3, "data": {}}
    )
    run_all(site)
    assert site.digests() != digests
    sentence = promotion.rollback(site.store, config, "vit")
    assert key[:12] in sentence
    assert promotion.declined(site.store, "vit")["vit2"].startswith("rolled back")
    run_all(site)
    assert site.digests() == digests
    after = {block: receipt.group for block, receipt in site.store.receipts("cam").items()}
    assert after == groups, "nothing was computed for it: the arrays of before were still there"
    with pytest.raises(StoreError, match="nothing to take back"):
        promotion.rollback(site.store, config, "vit")


def run_all(site):
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        return run.close()


def test_a_worse_candidate_is_not_promoted_and_not_trained_again(site):
    import torch

    from models.checkpoints import save_checkpoint
    from models.fusion import Fusion, metadata_of

    unpin(site)
    model = Fusion()
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(float("nan"))  # a network that fell apart
    folder = site.root / "candidate"
    worse = folder / "worse.safetensors"
    save_checkpoint(worse, model.state_dict(), metadata_of(model, cross_fitted=True, recipe={}))
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        verdict = promotion.judge(site.store, run.config, run.plan, "fusion", worse)
        same = promotion.judge(site.store, run.config, run.plan, "fusion", site.root / "fusion.safetensors")
    assert same.good, same.why
    assert not verdict.good, verdict
    assert set(verdict.figures) == {"consensus", "shown"}


# -- prune ------------------------------------------------------------------------------------------------


def test_prune_takes_what_no_receipt_names_and_keeps_the_rest(site):
    digests = site.digests()
    run_all(site)
    garbage = site.store.root / "arrays/fuse/b000000/0000.zarr"
    garbage.mkdir()
    (garbage / "zarr.json").write_text("{}")
    freed = prune_store(site.store, site.config, nights=7, quota_gb=None, dry=True).freed
    assert list(freed) == ["arrays/fuse/b000000/0000.zarr"]
    assert garbage.exists()
    prune_store(site.store, site.config, nights=7, quota_gb=None, dry=False)
    assert not garbage.exists()
    assert site.digests() == digests
    assert site.finish() == {}


def test_retention_keeps_last_nights_arrays_for_so_long(site):
    site.change(ensemble={"votes": 2})
    site.finish()
    before = site.store.previous("ensemble", "b000000")
    prune_store(site.store, site.config, nights=1, quota_gb=None, dry=False)
    assert site.store.intact(before)
    prune_store(site.store, site.config, nights=0, quota_gb=None, dry=False)
    assert not site.store.intact(before)
    assert site.store.previous("ensemble", "b000000") is None
    assert site.finish() == {}
    assert list(verify(site.store)) == []


def test_a_quota_takes_what_can_be_made_anew_and_no_label(site):
    digests = site.digests()
    work = prune_store(site.store, site.config, nights=7, quota_gb=1e-9, dry=False)
    assert work.left > 1
    names = {key.rsplit("/", 1)[-1] for key in work.freed}
    assert names == {"augmented", "embedding"}
    assert site.digests() == digests
    assert site.finish() == {}
    assert list(verify(site.store)) == []
    (site.store.root / "receipts/mask/b000000.json").unlink()
    assert site.finish() == {"mask": 1}
    assert site.digests() == digests


def test_a_group_that_both_receipts_name_is_not_pruned(site):
    """A run that died between writing the receipt before and the present one leaves one group in both."""
    folder = site.store.root / "receipts" / "fuse"
    shutil.copy(folder / "b000000.json", folder / "b000000.prev.json")
    (site.store.root / "arrays" / "fuse" / "b000099").mkdir()
    prune_store(site.store, site.config, nights=0, quota_gb=1e-9, dry=False)
    assert site.store.intact(site.store.receipt("fuse", "b000000"))


def test_arrays_of_retired_blocks_go_with_time(site):
    site.change(data={"folder": "images", "max_gone": 1.0})
    block = "b000000"
    rows = load(site.store)
    for row in rows:
        if row.block == block:
            (site.images / row.path).unlink()
    site.finish()
    prune_store(site.store, site.config, nights=1, quota_gb=None, dry=False)
    assert (site.store.root / "arrays/fuse" / block).exists()
    prune_store(site.store, site.config, nights=0, quota_gb=None, dry=False)
    assert not any((site.store.root / "arrays" / stage.name / block).exists() for stage in stages())
    assert site.finish() == {}
    assert list(verify(site.store)) == []


def test_a_copied_store_is_done_again_itself(site, tmp_path, monkeypatch):
    copy = tmp_path / "elsewhere.store"
    shutil.copytree(site.store.root, copy)
    asked = []
    monkeypatch.setattr(
        "flows.rerun.run_config", lambda config, console, selection: asked.append(load_config(config))
    )
    rerun_stage(copy, "mask", Console(), failed=False, images=())
    assert asked[0].store == copy.resolve()
    assert asked[0].data.folder == site.config.data.folder


def test_a_plan_says_that_the_store_goes_by_another_config(site):
    """As after a run of another one that somebody stopped at once: by this one all is done, and an export finds nothing."""
    before = site.path.read_bytes()
    site.change(fuse={"views": 4})
    with site.store.writing():
        Run(site.store, site.config, Silent())
    site.path.write_bytes(before)
    told = said(print_plan, site.path)
    assert "nothing to do" in told
    assert f"`bluemask run {site.path}` makes this one the store's again" in told
    site.change(alerts={"drift": 0.7})
    site.finish()
    site.change(alerts={"drift": 0.6})
    assert "which is another one" not in said(print_plan, site.path)
