"""What a training leaves in its folder: logs and pictures; and that no picture is worth a network."""

import re
import shutil

import cv2
import pytest
from labelled_store import Silent

from flows import promotion, training
from flows.networks import promoted
from flows.steps import Run
from models.checkpoints import load_checkpoint, save_checkpoint
from models.sam_shapes import TINY_WEIGHTS
from storage.catalog import load
from storage.lock import writer_lock
from tasks.registry import stage, stages, writer
from viewer import training_pictures


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_training_leaves_its_logs_and_pictures_and_nothing_else(labelled_once):
    vit, fusion = (
        next((labelled_once.store.root / "training").glob(f"{kind}-*")) for kind in ("vit", "fusion")
    )
    assert names(vit) == ["cams.png", "curves.png", "losses.csv"]
    assert names(fusion) == ["curves.png", "fusion.jsonl", "samples.png"]


def again(copy, report=lambda *_: None):
    """The ViT's training once more, in a copy of a store; what became of it, and its folder."""
    shutil.rmtree(copy.store.root / "training")
    with writer_lock(copy.store.root):
        run = Run(copy.store, copy.config, Silent())
        outcome = training.train(copy.store, copy.config, run.plan, "vit", report)
    return outcome, next((copy.store.root / "training").glob("vit-*"))


def test_the_same_training_has_the_same_pictures(labelled_once, labelled):
    told = {}
    outcome, folder = again(labelled, lambda done, total, _, unit: told.update({unit: (done, total)}))
    assert outcome.startswith("trained")
    parts = ["images read", "steps", "images calibrated", "pictures", "images judged"]
    compared = [*parts, "images judged as before"]
    assert list(told) == (parts if labelled.config.retrain.promote == "always" else compared)
    assert all(done == total > 0 for done, total in told.values()), "no part's bar stands before its end"
    before = next((labelled_once.store.root / "training").glob("vit-*"))
    assert folder.name == before.name
    for name in ("cams.png", "curves.png"):
        assert (folder / name).read_bytes() == (before / name).read_bytes()


def test_a_picture_that_cannot_be_drawn_is_told_and_costs_nothing(labelled, monkeypatch):
    def broken(*_, **__):
        raise KeyError("no such font")

    monkeypatch.setattr(training_pictures, "draw_cams", broken)
    outcome, folder = again(labelled)
    assert outcome.startswith("trained")
    assert outcome.endswith("; no pictures of it could be drawn: KeyError: 'no such font'")
    assert names(folder) == ["curves.png", "losses.csv"]
    assert promoted(labelled.store, "vit") is not None


@pytest.mark.parametrize("policy", ["changed", "never"])
def test_another_sam_wants_another_fusion_network(labelled, tmp_path, policy):
    """What the fusion network knows of SAM's features is of no use with those of another SAM."""
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {name: 2 * value for name, value in load_checkpoint(TINY_WEIGHTS)[0].items()}, {})
    sam = labelled.config.sam.model_copy(update={"checkpoint": other})
    retrain = labelled.config.retrain.model_copy(update={"policy": policy})
    before, after = (
        labelled.config.model_copy(update={"retrain": retrain, **changed}) for changed in ({}, {"sam": sam})
    )
    with writer_lock(labelled.store.root):
        same, changed = (Run(labelled.store, config, Silent()).plan for config in (before, after))
    entry = promoted(labelled.store, "fusion")
    assert not promotion.another_sam(entry, same)
    assert promotion.another_sam(entry, changed)
    assert not promotion.another_sam(promoted(labelled.store, "vit"), changed), "it has not seen SAM"
    assert not training.decide(labelled.store, before, same, "fusion").train
    network = labelled.store.checkpoint(entry["digest"], tmp_path)
    verdict = promotion.judge(labelled.store, after, changed, "fusion", network)
    assert (verdict.good, verdict.why) == (True, "SAM is another one")
    assert promotion.judged(labelled.store, after, changed, "fusion") == (1, verdict.why)


def test_images_of_blocks_that_are_about_to_be_made_anew_are_not_counted_as_changed(labelled):
    """One changed image makes its block stale, and all images of the block look changed until it is there again."""
    changed = max((labelled.root / "images").rglob("*.png"))
    changed.write_bytes(cv2.imencode(".png", 255 - cv2.imread(str(changed)))[1].tobytes())
    run = Run(labelled.store, labelled.config, Silent(), dry=True)
    assert run.catalogue.changes.changed
    decision = run.decision("vit")
    assert not decision.train or decision.counted
    found = {kind: run.foreseen(kind) for kind in ("vit", "fusion")}
    share = 1 / sum(row.status == "active" for row in run.catalogue.rows)
    assert all(each.train for each in found.values())
    assert re.fullmatch(r"perhaps: (\d+)% of its images changed", found["vit"].why)
    assert float(found["vit"].why.split()[1].rstrip("%")) <= round(200 * share), "the old one and the new one"


def _foreseen(labelled, **changes):
    """What is foreseen while all of one edited image's block is to be made anew, and what `plan` prints of it."""
    changed = min((labelled.root / "images").rglob("*.png"))
    changed.write_bytes(cv2.imencode(".png", 255 - cv2.imread(str(changed)))[1].tobytes())
    config = labelled.config.model_copy(
        update={
            name: getattr(labelled.config, name).model_copy(update=values) for name, values in changes.items()
        }
    )
    run = Run(labelled.store, config, Silent(), dry=True)
    assert run.todo(stage("ingest"))
    return {kind: run.foreseen(kind) for kind in ("vit", "fusion")}


def test_a_training_that_the_catalog_rules_out_is_not_foreseen(labelled):
    found = _foreseen(labelled, retrain={"share": 0.9})
    assert not any(each.train for each in found.values()), "only one image differs"


def test_a_training_whose_config_changed_is_foreseen_while_all_it_learns_from_is_made_anew(labelled):
    found = _foreseen(labelled, retrain={"share": 0.9}, train_vit={"seed": 5})
    assert found["vit"].train
    assert found["vit"].why.endswith("train_vit.seed 0 → 5")
    assert found["fusion"].why == "perhaps: what it learns from is made anew"


def test_another_vit_is_foreseen_to_train_the_fusion_though_nothing_is_stale_yet(labelled):
    vit = labelled.config.train_vit.model_copy(update={"seed": 5})
    run = Run(labelled.store, labelled.config.model_copy(update={"train_vit": vit}), Silent(), dry=True)
    assert not any(run.todo(step) for step in stages())
    assert run.foreseen("vit").why == "train_vit.seed 0 → 5"
    assert run.foreseen("fusion").why == "perhaps: what it learns from is made anew"


def test_what_was_turned_down_is_not_foreseen_while_a_block_is_made_anew(labelled):
    vit = labelled.config.train_vit.model_copy(update={"seed": 5})
    config = labelled.config.model_copy(update={"train_vit": vit})
    run = Run(labelled.store, config, Silent(), dry=True)
    promotion.decline(
        labelled.store, "vit", training.run_of(labelled.store, config, run.plan, "vit"), "not promoted"
    )
    run = Run(labelled.store, config, Silent(), dry=True)
    run.plan.force("ingest", [next(iter(run.plan.blocks))])
    assert run.todo(stage("ingest"))
    assert not any(run.foreseen(kind).train for kind in ("vit", "fusion"))


def test_a_new_class_is_foreseen_to_train_the_vit(labelled):
    listed = labelled.root / "images" / "labels.csv"
    listed.write_text(listed.read_text().replace('.png","blob"', '.png","zebra"'))
    (labelled.root / "images" / "classes.txt").unlink()
    found = _foreseen(labelled, retrain={"share": 0.9})
    assert found["vit"].train
    assert found["vit"].why.endswith("there are new classes")


def test_new_marks_do_not_teach_the_vit_which_never_sees_them(labelled):
    marked = [row for row in load(labelled.store) if row.labels == ("blob",)]
    lines = "".join(f"{row.path},3,3,background\n" for row in marked)
    (labelled.root / "points.csv").write_text(f"image,x,y,label\n{lines}")
    data = labelled.config.data.model_copy(update={"points": labelled.root / "points.csv"})
    config = labelled.config.model_copy(update={"data": data})
    with writer_lock(labelled.store.root):
        before = Run(labelled.store, labelled.config, Silent()).plan
        known = {kind: training.data_record(labelled.store, before, kind) for kind in ("vit", "fusion")}
        run = Run(labelled.store, config, Silent())
        run.stage(writer("annotation"))
        assert not run.close().failures
        assert training.data_record(labelled.store, run.plan, "vit") == known["vit"]
        assert not training.decide(labelled.store, config, run.plan, "vit").train
        for name in ("prompt", "embed", "mask", "ensemble"):
            run.stage(stage(name))
        after = training.data_record(labelled.store, run.plan, "fusion")
    changed = {sha256 for sha256, entry in after.items() if entry != known["fusion"][sha256]}
    assert changed
    assert changed <= {row.sha256 for row in marked}
