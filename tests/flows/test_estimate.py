"""What a run will cost is said before it starts, and a disk that is too small stops it there."""

import re

import numpy as np
import pytest
import yaml
from rich.console import Console

from flows import begin, estimate, networks
from flows.config import build_config
from flows.estimate import array_bytes, block_bytes, refuse_small_disk
from flows.forecast import print_plan
from flows.networks import precision_of
from flows.plan import Plan
from models.agreement import Target
from models.appearance import lesson
from models.checkpoints import load_checkpoint, save_checkpoint
from models.sam_shapes import TINY_WEIGHTS, embedding_shape
from models.spool import Spool
from models.vit_batches import Example
from storage.arrays import ArraySpec
from storage.catalog import ImageRow
from storage.store import Store, StoreError
from tasks.registry import spec, stage, stages


def config_of(folder, **values):
    return build_config({"data": {"folder": str(folder)}, "store": str(folder / "store"), **values}, "test")


def plan_of(folder, images=6, **values):
    """Nothing is done yet: two blocks of images of 100 × 150 pixels."""
    config = config_of(folder, **values)
    store = Store(config.store)
    store.add_classes(["dent", "scratch"])
    rows = [
        ImageRow(n, f"{n}.png", f"{n:064x}", 150, 100, ("dent",), "", f"b{n // 4:06d}", "active", "", 1, 1)
        for n in range(images)
    ]
    return Plan.of(store, config, rows, None, lambda _: "digest")


def test_an_array_takes_its_declared_bytes():
    one = ArraySpec(name="a", dims=("image", "y", "x"), dtype="float16", kind="number", description="")
    assert array_bytes(one, {"image": 4, "y": 100, "x": 150}) == np.zeros((4, 100, 150), np.float16).nbytes


def test_the_cost_grows_with_the_images_and_falls_with_what_is_not_kept(tmp_path):
    small, large = (estimate.estimate(plan_of(tmp_path / str(n), n), {}) for n in (4, 8))
    assert large.disk == pytest.approx(2 * small.disk)
    assert large.memory == small.memory, "blocks do not grow"
    unkept = estimate.estimate(plan_of(tmp_path / "u", 4, keep={"embedding": False}), {})
    plan = plan_of(tmp_path / "p", 4)
    shape = embedding_shape("tiny")
    embedding = block_bytes(plan, stage("embed"), plan.blocks["b000000"]).on_disk
    assert (
        embedding
        == 4 * 8 * np.prod(shape) * 2
        == array_bytes(spec("embedding"), {"image": 4, "view": 8, **dict(zip("dhw", shape, strict=True))})
    )
    assert small.disk - unkept.disk == embedding


def test_of_embeddings_that_are_read_a_shard_at_a_time_a_few_shards_count(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "PIECE", 1000)

    def in_memory(name, **values):
        plan = plan_of(tmp_path / name, 8, **values)
        plan.blocks = {"b": [row for rows in plan.blocks.values() for row in rows]}
        return block_bytes(plan, stage("mask"), plan.blocks["b"]).in_memory

    an_image = 8 * int(np.prod(embedding_shape("tiny"))) * 2
    whole, streamed = in_memory("u", keep={"embedding": False}), in_memory("k")
    assert whole - streamed == 4 * an_image, "of eight"


def test_time_is_known_by_trial_or_said_to_be_unknown(tmp_path):
    found = estimate.estimate(plan_of(tmp_path, 6), {"embed": 2.0})
    assert found.seconds == {"embed": 12.0}
    assert set(found.unknown) == {item.name for item in stages()} - {"embed"}


def minutes(labelled, **sections):
    """What `plan` says of a stage's minutes, by stage, where all images are to be done anew."""
    path = labelled.root / "other.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((labelled.root / "run.yaml").read_text()) | sections))
    with (console := Console(width=250)).capture() as caught:
        print_plan(path, console, Console(quiet=True))
    rows = [line.split("│") for line in caught.get().splitlines() if line.startswith("│")]
    return {cells[1].strip(): cells[5].strip() for cells in rows}


def test_plan_says_when_the_time_of_embed_will_be_known(labelled, tmp_path):
    never = minutes(labelled, store=str(tmp_path / "new"))
    assert (never["embed"], never["mask"]) == ("told as a run starts", "not measured yet")
    assert re.fullmatch(r"\d+\.\d", minutes(labelled, augment={"views": 6})["embed"]), "the store has it"
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {name: 2 * value for name, value in load_checkpoint(TINY_WEIGHTS)[0].items()}, {})
    found = minutes(labelled, sam={"checkpoint": str(other)})
    assert found["embed"] == "told as a run starts", "what another SAM took says nothing of this one"


def test_too_little_disk_stops_a_run_in_one_sentence(tmp_path):
    config = config_of(tmp_path)
    store = Store(config.store)
    refuse_small_disk(1e9, 2e9, store, config)
    with pytest.raises(
        StoreError, match=r"up to 3.00 GB, and the disk has 2.00 GB left; .*keep.embedding"
    ) as error:
        refuse_small_disk(3e9, 2e9, store, config)
    assert "\n" not in str(error.value)


def test_a_run_that_does_not_fit_starts_nothing(tmp_path, monkeypatch):
    from small_run import draw, small_config

    draw(tmp_path / "images", "dent/1.png", 1)
    small_config(tmp_path)
    full = estimate.shutil._ntuple_diskusage(100, 100, 0)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: full)
    monkeypatch.setattr(estimate, "trial_seconds", lambda *_: {})
    with pytest.raises(StoreError, match="nothing was started"):
        begin.run_config(tmp_path / "run.yaml", Console(quiet=True))
    assert not list((tmp_path / "store").glob("receipts/*/b*"))


@pytest.mark.parametrize(
    ("sam", "unit", "asked", "expected"),
    [
        ("vit_b", True, "auto", "bfloat16"),
        ("vit_b", False, "auto", "float32"),
        ("tiny", True, "auto", "float32"),
        ("tiny", False, "bfloat16", "bfloat16"),
        ("vit_h", True, "float32", "float32"),
    ],
)
def test_precision_follows_the_machine_unless_it_is_fixed(tmp_path, monkeypatch, sam, unit, asked, expected):
    monkeypatch.setattr(networks, "has_bfloat16_unit", lambda _: unit)
    assert precision_of(config_of(tmp_path, sam={"model": sam}, precision=asked)) == expected


def test_what_a_training_lays_by_is_foreseen(tmp_path):
    plan, spool = plan_of(tmp_path, 6), Spool(Example, tmp_path)
    image = np.zeros((100, 150, 3), np.uint8)
    for _ in range(6):
        spool.append(Example(image, np.zeros((100, 150), np.float32), np.ones(2, bool)))
    assert spool.nbytes <= estimate.passing_bytes(plan, "vit") + 6 * 8 <= 1.01 * spool.nbytes
    fusion = estimate.passing_bytes(plan, "fusion")
    lesson_ = lesson(
        np.zeros(embedding_shape("tiny"), np.float16), image, Target(image[..., 0], np.ones((100, 150), np.float32)),
        np.ones(1, np.uint8), np.full((100, 150), 255, np.uint8), np.zeros((100, 150), np.uint8),
    )  # fmt: skip
    one_patch = 128**2 * (3 + 4 + 1 + 1 + 1)  # image, evidence of one slot, slot, weight, inside
    least = 6 * (sum(part.nbytes for part in lesson_) + 4 * one_patch)
    assert least <= fusion <= 1.5 * least
    many = plan_of(tmp_path / "many", 100, train_fusion={"patches_mb": 10})
    assert estimate.passing_bytes(many, "fusion") == 2 * 10e6
