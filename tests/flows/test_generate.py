"""A whole run, and what a second one does after each kind of change."""

import json
import shutil

import cv2
import numpy as np
import pytest
import xarray
from small_run import draw

from flows.networks import promoted
from flows.plan import fingerprint
from flows.summary import plan_of, stored_config
from storage.catalog import load
from tasks.registry import stages


def blocks(site):
    return sorted(site.store.receipts("fuse"))


def test_the_first_run_does_everything_and_tells_of_the_broken_file(finished):
    out = finished.first_run.stdout
    assert finished.first_run.returncode == 3, finished.first_run.stderr
    assert "14 images" in out
    assert "blob/broken.png" in out
    assert "quarantined" in out
    assert f"next: `bluemask browse {finished.store.root}`" in out
    assert "starting Prefect" in finished.first_run.stderr, "what takes seconds and shows no bar is announced"
    for stage in stages():
        assert len(finished.store.receipts(stage.name)) == 4
        assert stage.name in out


def test_every_group_opens_in_xarray(finished):
    for stage in stages():
        for receipt in finished.store.receipts(stage.name).values():
            with xarray.open_zarr(
                finished.store.root / receipt.group, consolidated=False, mask_and_scale=False
            ) as group:
                assert set(group.variables) == {spec.name for spec in stage.writes}
                assert len(group.attrs["images"]) == group.sizes["image"] == receipt.images


def test_p_says_only_what_the_label_allows(finished):
    for block, receipt in finished.store.receipts("fuse").items():
        p = finished.store.read(receipt, "p")
        ingest = finished.store.receipt("ingest", block)
        size, slot_class = (finished.store.read(ingest, name) for name in ("size", "slot_class"))
        for n, (height, width) in enumerate(size):
            assert set(np.unique(p[n, :height, :width])) <= {0, *slot_class[n]}
            outside = p[n].copy()
            outside[:height, :width] = 255
            assert (outside == 255).all()


def test_a_second_run_finds_nothing_to_do(site):
    before = site.digests()
    result = site.command("run", str(site.path))
    assert result.returncode == 3  # the broken file is still there
    assert "nothing to do" in result.stdout
    assert "next:" not in result.stdout
    assert "Prefect" not in result.stderr
    assert not (site.root / "prefect" / "prefect.db").exists(), "no server is started for nothing"
    assert site.digests() == before


@pytest.mark.parametrize(
    "name", ["ingest", "augment", "objectness", "embed", "cam", "prompt", "mask", "ensemble", "fuse"]
)
def test_a_deleted_receipt_redoes_that_block_alone(site, name):
    before = site.digests()
    block = blocks(site)[1]
    (site.store.root / f"receipts/{name}/{block}.json").unlink()
    assert site.finish() == {name: 1}
    assert site.digests() == before


def test_a_changed_image_redoes_itself_alone(site):
    site.change(retrain={"policy": "never"})
    before = site.digests()
    draw(site.images, "dent/001.png", 999)
    assert site.finish() == {stage.name: 1 for stage in stages()}
    assert before.items() <= site.digests().items()
    rows = [row for row in load(site.store) if row.path == "dent/001.png"]
    assert [row.status for row in rows] == ["retired", "active"]


def test_added_images_redo_nothing_else(site):
    site.change(retrain={"policy": "never"})
    before = site.digests()
    for n in range(10):
        draw(site.images, f"scratch/new{n}.png", 7_000_000 + n)
    assert site.finish() == {stage.name: 3 for stage in stages()}
    assert before.items() <= site.digests().items()


def test_a_new_label_never_encodes(site):
    site.change(retrain={"policy": "never"})
    before = site.digests()
    shutil.move(site.images / "dent" / "001.png", site.images / "scratch" / "001.png")
    done = site.finish()
    assert set(done) == {"ingest", "cam", "prompt", "mask", "ensemble", "fuse"}
    assert set(done.values()) == {1}
    after = site.digests()
    assert all(before[key] == after[key] for key in before if key.startswith(("augment", "embed")))
    block = next(row.block for row in load(site.store) if row.path == "scratch/001.png")
    assert before[f"ingest/{block}/image"] == after[f"ingest/{block}/image"]
    assert before[f"ingest/{block}/label"] != after[f"ingest/{block}/label"]


def test_a_config_key_redoes_what_depends_on_it(site):
    site.change(retrain={"policy": "never"}, ensemble={"votes": 2})
    assert set(site.todo()) == {"ensemble", "fuse"}


def test_a_removed_image_redoes_nothing_and_leaves_the_outputs(site):
    site.change(data={"folder": "images", "max_gone": 1.0})
    (site.images / "dent" / "001.png").unlink()
    assert site.finish() == {}
    out = site.root / "labels"
    assert site.call("export", str(site.store.root), str(out)).returncode == 0
    assert not (out / "dent" / "001.png").exists()
    assert len(list(out.rglob("*.png"))) == 13


def test_a_neighbours_removal_does_not_spoil_a_relabelling(site):
    site.change(retrain={"policy": "never"}, data={"folder": "images", "max_gone": 1.0})
    before = site.digests()
    rows = [row for row in load(site.store) if row.block == blocks(site)[0] and row.labels]
    (site.images / rows[0].path).unlink()
    other = "blob" if rows[1].labels != ("blob",) else "dent"
    shutil.move(site.images / rows[1].path, site.images / other / "moved.png")
    done = site.finish()
    assert "embed" not in done
    assert site.digests()[f"ingest/{rows[0].block}/image"] == before[f"ingest/{rows[0].block}/image"]


def test_a_lost_shard_is_noticed_and_made_anew(site):
    before = site.digests()
    receipt = site.store.receipts("ensemble")[blocks(site)[0]]
    next(
        path for path in (site.store.root / receipt.group / "p2" / "c").rglob("*") if path.is_file()
    ).unlink()
    assert site.finish() == {"ensemble": 1}
    assert site.digests() == before


def test_what_is_not_kept_is_made_when_needed(site):
    before = site.digests()
    site.change(keep={"augmented": False, "embedding": False})
    for stage, name in (("augment", "augmented"), ("embed", "embedding")):
        for receipt in site.store.receipts(stage).values():
            site.store.drop(receipt, name)
    assert site.finish() == {}
    (site.store.root / f"receipts/mask/{blocks(site)[0]}.json").unlink()
    assert site.finish() == {"mask": 1}
    assert site.digests() == before


def test_embeddings_that_are_not_kept_are_decoded_in_the_pass_that_makes_them(site):
    before = site.digests()
    site.change(keep={"augmented": False, "embedding": False})
    for stage in ("augment", "embed", "mask"):
        for folder in ("receipts", "arrays"):
            shutil.rmtree(site.store.root / folder / stage)
    assert site.finish() == {"augment": 4, "mask": 4}
    assert site.digests() == before, "the same embeddings, and masks, as with a copy on disk"
    assert not list(site.store.root.glob("arrays/embed/**/embedding"))
    assert not list(site.store.root.glob("arrays/augment/**/augmented"))
    assert site.finish() == {}


def test_an_empty_share_stops_the_run_and_retires_nothing(site):
    shutil.move(site.images, site.root / "elsewhere")
    site.images.mkdir()
    result = site.call("run", str(site.path))
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert all(row.status != "retired" for row in load(site.store))


@pytest.mark.slow
def test_a_failing_block_does_not_keep_the_others(site):
    # a checkpoint of another shape than the config says cannot be loaded: cam fails, embed goes on
    site.change(train_vit={"checkpoint": "store/broken.safetensors"})
    (site.store.root / "broken.safetensors").write_bytes(b"none")
    (site.store.root / f"receipts/embed/{blocks(site)[0]}.json").unlink()
    result = site.command("run", str(site.path))
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "failed" in result.stdout
    status = site.call("status", str(site.store.root))
    assert "failed cam" in status.stdout
    assert site.store.receipt("embed", blocks(site)[0]) is not None


def test_after_a_run_every_block_is_fresh_by_the_stored_config_too(finished):
    store = finished.store
    plan = plan_of(store, stored_config(store))
    assert {name: dict(counts) for name, counts in plan.table().items()} == {
        stage.name: {"fresh": 4} for stage in stages()
    }


def test_status_tells_how_it_stands(site):
    (site.store.root / f"receipts/cam/{blocks(site)[0]}.json").unlink()
    result = site.call("status", str(site.store.root))
    assert result.returncode == 0
    assert "never done" in result.stdout
    assert "blob/broken.png" in result.stdout
    digest = promoted(site.store, "vit")["digest"][:12]
    count = sum(row.status == "active" for row in load(site.store))
    assert f"vit network: {digest}, made 20" in result.stdout
    assert f"from a set of {count} images" in result.stdout
    assert "fusion network: " in result.stdout


def test_fingerprint_sees_every_part():
    parts = {"version": "1", "config": "a"}
    digests = {fingerprint(parts)} | {fingerprint({**parts, key: "x"}) for key in (*parts, "array cam")}
    assert len(digests) == 4


def test_export_writes_the_images_own_names(site):
    out = site.root / "labels"
    result = site.call("export", str(site.store.root), str(out))
    assert result.returncode == 0, result.stderr
    assert (out / "classes.txt").read_text().split() == ["blob", "dent", "scratch"]
    for row in load(site.store):
        if row.status == "active":
            label = cv2.imread(str(out / row.path), cv2.IMREAD_UNCHANGED)
            assert label.shape[:2] == (row.height, row.width)


def test_export_never_takes_the_images_place(site):
    assert (
        site.todo() == {}
    )  # and the store knows this site's images, not those of the one it was copied from
    result = site.call("export", str(site.store.root), str(site.images))
    assert result.returncode == 2
    assert "holds the images themselves" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_stale_label_is_not_exported(site):
    (site.store.root / f"receipts/fuse/{blocks(site)[0]}.json").unlink()
    out = site.root / "labels"
    result = site.call("export", str(site.store.root), str(out))
    assert "without an up-to-date label" in result.stderr
    assert len(list(out.rglob("*.png"))) < 14


def test_show_draws_one_image(site):
    result = site.call("show", str(site.store.root), "dent/001.png", "--out", str(site.root / "one.png"))
    assert result.returncode == 0, result.stderr
    picture = cv2.imread(str(site.root / "one.png"))
    assert min(picture.shape[:2]) > 100
    assert picture.std() > 10


def test_evaluate_scores_a_store(site):
    masks = site.root / "masks"
    assert site.call("export", str(site.store.root), str(masks)).returncode == 0
    result = site.call("evaluate", str(site.store.root), "--masks", str(masks), "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["P"]["mIoU"] == found["P"]["ACC"] == 1.0, "P against itself"
    assert found["all 0"]["mIoU"] < 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sam": {"model": "vit_b", "checkpoint": "none.pth"}}, "none.pth"),
        ({"train_vit": {"checkpoint": "none.safetensors"}}, "none.safetensors"),
        ({"data": {"folder": "elsewhere"}}, "elsewhere"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(site, changes, said):
    site.change(**changes)
    result = site.call("run", str(site.path))
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert said in result.stderr
