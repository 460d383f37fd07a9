import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from labelled_store import Silent
from PIL import Image
from rich.console import Console

from flows import training
from flows.exporting import export_store
from flows.importing import import_masks
from flows.outputs import finished, show_images
from flows.selection import Choice, part_of, split_of
from flows.steps import Run
from flows.summary import plan_of
from storage.catalog import load, save
from storage.receipts import seal
from storage.reviews import Review, Reviews, label_digest
from storage.store import StoreError, WrongInputError
from tasks.export import ExportError
from tasks.export_label_studio import encode
from tasks.registry import stage

QUIET = Console(quiet=True)


def first(labelled, label="blob"):
    return next(i for i in finished(labelled.store, labelled.config) if i.row.labels == (label,))


def exported(labelled, out, **how):
    export_store(labelled.store.root, out, QUIET, **how)
    return {
        p.relative_to(out).with_suffix("").as_posix(): np.asarray(Image.open(p)) for p in out.rglob("*.png")
    }


def files_in(folder):
    """The images and arrays in it, by path; not what lists them."""
    return [p for p in folder.rglob("*") if p.suffix in (".png", ".npz")]


def stem(item):
    return item.row.path.removesuffix(".png")


def correct(labelled, item, value=1):
    mask = np.zeros((item.row.height, item.row.width), np.uint8)
    mask[3:20, 5:30] = value
    reviews = Reviews(labelled.store)
    digest = reviews.keep_mask(item.row.sha256, mask)
    reviews.add(item.row.sha256, Review(verdict="accept", judged=digest, mask=digest))
    return mask


def test_a_corrected_mask_stands_in_p_s_place(labelled, tmp_path):
    item = first(labelled)
    mask = correct(labelled, item)
    found = exported(labelled, tmp_path / "out", choice=Choice(confidence=1.0))
    np.testing.assert_array_equal(found[stem(item)], mask)  # and what was drawn by hand is sure
    others = [
        i for i in finished(labelled.store, labelled.config) if i.row.path != item.row.path and i.row.labels
    ]
    for other in others:
        unsure = other.array("confidence") < 1
        assert (found[stem(other)][unsure] == 255).all()
        np.testing.assert_array_equal(found[stem(other)][~unsure], other.array("p")[~unsure])


def test_what_was_rejected_stays_out_until_its_label_changes(labelled, tmp_path):
    item, reviews = first(labelled), Reviews(labelled.store)
    reviews.add(item.row.sha256, Review(verdict="reject", judged=label_digest(item.array("p"))))
    assert stem(item) not in exported(labelled, tmp_path / "a")
    reviews.add(item.row.sha256, Review(verdict="reject", judged="another label"))
    assert stem(item) in exported(labelled, tmp_path / "b")


def outdate(labelled):
    """Another config: every label is of an earlier one."""
    config = yaml.safe_load((labelled.store.root / "config.yaml").read_text())
    config["cam"]["low"] /= 2
    labelled.store.documents.write("config.yaml", yaml.safe_dump(config).encode())


def test_labels_of_an_earlier_run_are_exported_where_that_is_asked_for(labelled, tmp_path):
    before = exported(labelled, tmp_path / "before")
    outdate(labelled)
    with pytest.raises(
        StoreError, match=r"no up-to-date label .*`--outdated` exports those of an earlier run"
    ):
        exported(labelled, tmp_path / "none")
    after = exported(labelled, tmp_path / "after", choice=Choice(outdated=True))
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_an_outdated_label_is_of_these_pixels_and_this_class(labelled, tmp_path):
    outdate(labelled)
    rows = load(labelled.store)
    relabelled, redrawn, *others = (row for row in rows if row.status == "active")
    changed = {
        relabelled.id: replace(relabelled, labels=("scratch", "blob", "<b>dent</b>")),
        redrawn.id: replace(redrawn, sha256="0" * 64),
    }
    save(labelled.store, [changed.get(row.id, row) for row in rows])
    found = exported(labelled, tmp_path / "out", choice=Choice(outdated=True))
    assert found.keys() == {row.path.removesuffix(".png") for row in others}


def test_a_label_made_from_what_ingest_has_read_anew_since_is_left_out(labelled, tmp_path):
    outdate(labelled)
    block = next(row.block for row in load(labelled.store) if row.status == "active")
    receipt = labelled.store.receipt("ingest", block)
    record = receipt.arrays["sha256"].model_copy(update={"digest": "0" * 32})
    changed = receipt.model_copy(update={"arrays": receipt.arrays | {"sha256": record}})
    labelled.store.documents.write(f"receipts/ingest/{block}.json", seal(changed))
    found = exported(labelled, tmp_path / "out", choice=Choice(outdated=True))
    assert found.keys() == {
        row.path.removesuffix(".png")
        for row in load(labelled.store)
        if row.status == "active" and row.block != block
    }


def test_only_reviewed_ones(labelled, tmp_path):
    with pytest.raises(ExportError, match="not reviewed"):
        exported(labelled, tmp_path / "none", choice=Choice(reviewed=True))
    item = first(labelled)
    Reviews(labelled.store).add(
        item.row.sha256, Review(verdict="accept", judged=label_digest(item.array("p")))
    )
    assert list(exported(labelled, tmp_path / "one", choice=Choice(reviewed=True))) == [stem(item)]


def test_only_some_classes(labelled, tmp_path):
    found = exported(labelled, tmp_path / "out", choice=Choice(classes=("scratch",)))
    wanted = {stem(i) for i in finished(labelled.store, labelled.config) if "scratch" in i.row.labels}
    assert set(found) == wanted
    assert set(np.unique(np.concatenate([x.ravel() for x in found.values()])).tolist()) <= {0, 3, 255}
    with pytest.raises(ExportError, match="'rust' is none of blob"):
        exported(labelled, tmp_path / "bad", choice=Choice(classes=("rust",)))


def test_a_part_is_decided_by_the_content_and_follows_the_shares():
    digests = [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" + "0" * 48 for n in range(2000)]
    parts = [part_of(d, (0.8, 0.1, 0.1)) for d in digests]
    assert parts.count("train") == pytest.approx(1600, abs=60)
    assert parts.count("test") == pytest.approx(200, abs=40)
    assert parts == [part_of(d, (0.8, 0.1, 0.1)) for d in digests]
    moved = sum(a != part_of(d, (0.9, 0.05, 0.05)) for a, d in zip(parts, digests, strict=True))
    assert moved == pytest.approx(300, abs=60)  # those between the edges alone


@pytest.mark.parametrize("text", ["0.5,0.4", "x", "", "0.5,0.2,0.2,0.1", "1.5,-0.5"])
def test_a_split_that_is_none_is_refused(text):
    with pytest.raises(ExportError, match="sum to 1"):
        split_of(text)


def test_labels_are_not_written_among_the_images(labelled):
    with pytest.raises(WrongInputError, match="holds the images themselves"):
        export_store(labelled.store.root, labelled.root / "images" / "labels", QUIET)


@pytest.mark.parametrize("place", ["", "labels"])
def test_labels_are_not_written_into_the_store(labelled, place):
    with pytest.raises(WrongInputError, match="holds the store, or lies in it"):
        export_store(labelled.store.root, labelled.store.root / place, QUIET)


def test_two_formats_do_not_mix_in_one_folder(labelled, tmp_path):
    exported(labelled, tmp_path / "out", kind="voc")
    exported(labelled, tmp_path / "out", kind="voc")
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(WrongInputError, match="holds an export as 'voc'; export 'png' into another folder"):
        exported(labelled, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_labels_are_not_written_into_a_file(labelled, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WrongInputError, match="is a file; name a folder"):
        export_store(labelled.store.root, tmp_path / "notes.txt", QUIET)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_name_that_is_not_quite_right_brings_the_right_one(labelled, tmp_path):
    root = labelled.store.root
    path = finished(labelled.store, labelled.config)[0].row.path
    for wrong in (path.split("/")[-1], path.rpartition(".")[0], f"./{path}"):
        with pytest.raises(WrongInputError, match=f"did you mean {re.escape(path)}"):
            show_images(root, [wrong], tmp_path / "out.png")
    with pytest.raises(WrongInputError, match="its paths look like"):
        show_images(root, ["§§§"], tmp_path / "out.png")


def test_cvat_there_and_back(labelled, tmp_path):
    item = first(labelled)
    mask = correct(labelled, item)
    # CVAT knows no label with a colon, but any other name
    export_store(labelled.store.root, tmp_path / "out", QUIET, kind="cvat")
    for folder in ("reviews", "copies/reviews"):
        shutil.rmtree(labelled.store.root / folder)
    import_masks(labelled.store.root, tmp_path / "out" / "annotations.zip", QUIET, kind="cvat", accept=True)
    kept = Reviews(labelled.store)
    reviews = {sha256: kept.history(sha256) for sha256 in kept.images()}
    np.testing.assert_array_equal(kept.mask(item.row.sha256), mask)
    assert len(reviews) == len(finished(labelled.store, labelled.config))
    assert {h.last.verdict for h in reviews.values()} == {"accept"}
    assert sum(bool(h.last.mask) for h in reviews.values()) == 1


def annotated(item, results, **more):
    data = {"data": {"image": f"/data/upload/1/0a1b2c3d-{item.row.path.rsplit('/', 1)[-1]}"}}
    return {"id": 1, **data, "annotations": [{"result": results, **more}]}


def brush(mask, label):
    height, width = mask.shape
    value = {"format": "rle", "rle": encode(mask), "brushlabels": [label]}
    return {"type": "brushlabels", "original_width": width, "original_height": height, "value": value}


def test_label_studio_brings_masks_back(labelled, tmp_path):
    item = first(labelled)
    mask = np.zeros((item.row.height, item.row.width), bool)
    mask[2:9, 4:40] = True
    file = tmp_path / "export.json"
    file.write_text(json.dumps([annotated(item, [brush(mask, "scratch")])]))
    import_masks(labelled.store.root, file, QUIET, kind="label-studio", accept=False)
    np.testing.assert_array_equal(Reviews(labelled.store).mask(item.row.sha256), mask * np.uint8(3))
    file.write_text(json.dumps([annotated(item, [])]))  # somebody found that there is no defect
    import_masks(labelled.store.root, file, QUIET, kind="label-studio", accept=False)
    assert not Reviews(labelled.store).mask(item.row.sha256).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: annotated(item, [brush(np.ones((5, 5), bool), "blob")]), "is 5 × 5 pixels, the image"),
        (lambda item: annotated(item, [brush(np.ones((64, 72), bool), "rust")]), "'rust' is none of"),
        (
            lambda item: {**annotated(item, []), "data": {"image": "elsewhere.png"}},
            "'elsewhere' is the name of 0",
        ),
    ],
)
def test_nothing_is_taken_where_one_mask_does_not_fit(labelled, tmp_path, change, message):
    item = first(labelled)
    good = annotated(item, [brush(np.ones((item.row.height, item.row.width), bool), "blob")])
    (tmp_path / "export.json").write_text(json.dumps([good, change(item)]))
    with pytest.raises(ExportError, match=message):
        import_masks(labelled.store.root, tmp_path / "export.json", QUIET, kind="label-studio", accept=True)
    assert not list(Reviews(labelled.store).images())


def test_the_next_training_learns_from_what_was_drawn(labelled):
    item, store = first(labelled), labelled.store
    plan = plan_of(store, labelled.config)
    before = training.data_record(store, plan, "fusion")
    mask = correct(labelled, item)
    records = training.Records(store, plan, "fusion")
    drawn = [record["correction"] for record in records if "correction" in record]
    assert len(drawn) == 1
    np.testing.assert_array_equal(drawn[0], mask)
    after = training.data_record(store, plan, "fusion")
    assert {name for name in after if after[name] != before[name]} == {item.row.sha256}
    assert training.data_record(store, plan, "vit").keys() == before.keys()
    assert not any("correction" in record for record in training.Records(store, plan, "vit"))


def test_an_image_whose_review_is_damaged_is_left_out_with_the_remedy(labelled, tmp_path, capsys):
    item = first(labelled)
    correct(labelled, item)
    for folder in ("reviews", "copies/reviews"):
        (labelled.store.root / folder / f"{item.row.sha256}.json").write_text("{")
    export_store(labelled.store.root, tmp_path / "out", Console(), kind="png")
    said = " ".join(capsys.readouterr().out.split())
    assert "1 with a damaged review" in said
    assert "--repair" in said


def flipped(labelled, stage, name):
    """An array of the first image's block, one bit of a chunk flipped; and what makes it whole again."""
    receipt = labelled.store.receipt(stage, first(labelled).row.block)
    shard = next(p for p in (labelled.store.root / receipt.group / name / "c").rglob("*") if p.is_file())
    before = shard.read_bytes()
    shard.write_bytes(before[:60] + bytes([before[60] ^ 1]) + before[61:])
    return lambda: shard.write_bytes(before)


def test_an_export_that_is_broken_off_says_so_in_its_folder(labelled, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(
            "tasks.export._save", lambda *_, **__: (_ for _ in ()).throw(OSError("the disk is full"))
        )
        with pytest.raises(OSError, match="full"):
            export_store(labelled.store.root, out, Console())
    assert "broken off" in (out / "UNFINISHED.txt").read_text()
    export_store(labelled.store.root, out, Console())
    assert not (out / "UNFINISHED.txt").exists()


@pytest.mark.parametrize(
    ("kind", "stage", "name", "folder"),
    [
        ("png", "fuse", "p", ""),
        ("npz", "ensemble", "mean", ""),
        ("voc", "ingest", "image", "SegmentationClass"),
    ],
)
def test_damage_costs_an_export_the_images_that_it_befell_and_is_told(
    labelled, tmp_path, kind, stage, name, folder
):
    out, root = tmp_path / "out", labelled.store.root
    export_store(root, out, QUIET, kind=kind)
    whole = {path.relative_to(out): path.read_bytes() for path in files_in(out / folder)}
    again = flipped(labelled, stage, name)
    fresh = tmp_path / "fresh"
    with pytest.raises(
        StoreError, match=rf"could not be read, and not written to .*arrays/{stage}.*is damaged"
    ) as error:
        export_store(root, fresh, QUIET, kind=kind)
    assert "\\x" not in str(error.value)
    missing = (fresh / "UNFINISHED.txt").read_text().splitlines()[1:]
    left = {path.relative_to(fresh) for path in files_in(fresh / folder)}
    assert 0 < len(missing) < len(whole)
    assert len(left) == len(whole) - len(missing)
    with pytest.raises(StoreError, match=f"where an earlier export's stays of {len(missing)}: "):
        export_store(root, out, QUIET, kind=kind)
    assert {path.relative_to(out) for path in files_in(out / folder)} == whole.keys(), (
        "a good label is not taken away"
    )
    again()
    export_store(root, fresh, QUIET, kind=kind)
    assert {path.relative_to(fresh): path.read_bytes() for path in files_in(fresh / folder)} == whole
    assert not (fresh / "UNFINISHED.txt").exists()


def test_a_judged_label_that_cannot_be_read_is_told_as_well(labelled, tmp_path):
    item = first(labelled)
    Reviews(labelled.store).add(
        item.row.sha256, Review(verdict="accept", judged=label_digest(item.array("p"))), expected=None
    )
    flipped(labelled, "fuse", "p")
    with pytest.raises(StoreError, match=rf"{item.row.path}: arrays/fuse"):
        export_store(labelled.store.root, tmp_path / "out", QUIET)


def test_where_nothing_can_be_read_the_damage_is_told_with_its_remedy(labelled, tmp_path):
    for item in finished(labelled.store, labelled.config):
        Reviews(labelled.store).add(
            item.row.sha256, Review(verdict="accept", judged=label_digest(item.array("p")))
        )
    for receipt in labelled.store.receipts("fuse").values():
        described = labelled.store.root / receipt.group / "p" / "zarr.json"
        described.write_text(described.read_text().replace("0", "1"))
    with pytest.raises(StoreError, match=r"is damaged .* makes it anew"):
        export_store(labelled.store.root, tmp_path / "out", QUIET)


def test_one_relabelled_image_does_not_outdate_its_block_s_other_labels(labelled, tmp_path):
    """As in a night that was killed after it had read the new label: what was made of the old one is still at hand."""
    whole = exported(labelled, tmp_path / "whole")
    item = first(labelled)
    table = labelled.root / "images" / "labels.csv"
    text = table.read_text(encoding="utf-8")
    assert text.count(f'"{item.row.path}","blob"\n') == 1
    table.write_text(
        text.replace(f'"{item.row.path}","blob"\n', f'"{item.row.path}","scratch"\n'), encoding="utf-8"
    )
    with labelled.store.writing():
        Run(labelled.store, labelled.config, Silent()).stage(stage("ingest"))
    now = exported(labelled, tmp_path / "now")
    assert now.keys() < whole.keys() - {stem(item)}, "its block has others"
    found = exported(labelled, tmp_path / "out", choice=Choice(outdated=True))
    assert found.keys() == whole.keys() - {stem(item)}
    for name in found:
        np.testing.assert_array_equal(found[name], whole[name])
