"""Sets, subsets, points and rows of `bench.quality`."""

import csv
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rich.console import Console

import bluemask
from bench import quality_run
from bench.quality_rows import BY_NAME, LINES, VARIANTS, chosen, present
from bench.quality_run import Site, merged
from bench.quality_sets import ImageSet, NoSetError, interior_points, locate, subset, thinned, write_points
from bench.quality_tables import cell, page
from tasks.registry import stages


def draw(folder, name, mask):
    for part, pixels in (("images", 40 * mask), ("masks", mask)):
        path = folder / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)


@pytest.fixture
def images(tmp_path):
    """Ten images of `a` with two pieces each, five of `b` with one, five good ones."""
    folder = tmp_path / "set"
    for n in range(10):
        mask = np.zeros((20, 24), np.uint8)
        mask[2:8, 3:9], mask[12:18, 5 + n] = 1, 1
        draw(folder, f"a/{n}.png", mask)
        if n < 5:
            draw(folder, f"b/{n}.png", 2 * (mask > 0) * (np.arange(20)[:, None] < 10).astype(np.uint8))
            draw(folder, f"good/{n}.png", 0 * mask)
    (folder / "classes.txt").write_text("a\nb\n")
    return ImageSet("set", folder / "images", folder / "masks")


def test_a_subset_is_spread_evenly_and_holds_every_class(images, tmp_path):
    few = thinned(images.paths, 8)
    assert few == [
        "a/0.png",
        "a/2.png",
        "a/5.png",
        "a/7.png",
        "b/0.png",
        "b/2.png",
        "good/0.png",
        "good/2.png",
    ]
    assert {path[0] for path in thinned(images.paths, 1)} == {"a", "b", "g"}
    found = subset(images, 8, tmp_path / "part")
    assert found.paths == few
    assert found.classes == ["a", "b"]
    assert subset(images, 8, tmp_path / "part").digest == found.digest != images.digest
    assert subset(images, 100, tmp_path / "other") is images


def test_without_a_list_the_classes_are_the_folders_of_defects(images):
    (images.images.parent / "classes.txt").unlink()
    assert ImageSet("set", images.images, images.masks).classes == ["a", "b"]


def test_a_subset_does_not_look_at_masks(images, tmp_path):
    for path in images.masks.rglob("*.png"):
        path.unlink()
    assert subset(images, 8, tmp_path / "part").paths == thinned(images.paths, 8)


def test_each_piece_gets_one_point_inside_it():
    region = np.zeros((30, 30), bool)
    region[2:9, 2:9] = region[20:22, 5:25] = region[28, 28] = True
    for seed in range(20):
        points = interior_points(region, np.random.default_rng(seed))
        assert len(points) == 3
        assert all(region[y, x] for x, y in points)
        x, y = points[0]
        assert region[y - 1 : y + 2, x - 1 : x + 2].all()  # the border is left alone where there is an inside


def test_points_are_drawn_by_seed(images, tmp_path):
    paths = [tmp_path / f"{name}.csv" for name in "xyz"]
    assert [write_points(images, seed, path) for seed, path in zip((0, 0, 1), paths, strict=True)] == [25] * 3
    texts = [path.read_text() for path in paths]
    assert texts[0] == texts[1] != texts[2]
    rows = list(csv.DictReader(texts[0].splitlines()))
    assert {row["label"] for row in rows if row["image"].startswith("b/")} == {"b"}
    assert not [row for row in rows if row["image"].startswith("good/")]


def test_a_set_that_is_not_there_says_what_to_do(tmp_path, images):
    with pytest.raises(NoSetError, match="holds no images/ and masks/"):
        locate("sd900", data=tmp_path, bluefilm=None, out=tmp_path, console=Console(quiet=True))
    found = locate("bluefilm", data=tmp_path, bluefilm=images.images.parent, out=tmp_path, console=Console())
    assert found.paths == images.paths


@pytest.mark.parametrize("status", [0, 1])
def test_blue_film_is_drawn_once_by_the_command_line(monkeypatch, tmp_path, images, status):
    asked = []

    def synth(command, check):
        asked.append(command[2])
        shutil.copytree(images.images.parent, command[3])
        return subprocess.CompletedProcess(command, status)

    commands = [SimpleNamespace(name="synth", callback=None)]
    monkeypatch.setattr(bluemask.app, "registered_commands", commands)
    monkeypatch.setattr(subprocess, "run", synth)
    where = {"data": tmp_path, "bluefilm": None, "out": tmp_path, "console": Console(quiet=True)}
    if status:
        with pytest.raises(NoSetError, match="status 1"):
            locate("bluefilm", **where)
    else:
        assert [locate("bluefilm", **where).paths for _ in range(2)] == [images.paths] * 2
        assert asked == ["synth"]


def test_blue_film_is_left_out_where_nothing_draws_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bluemask.app, "registered_commands", [])
    with pytest.raises(NoSetError, match=r"no command `synth`.*--bluefilm"):
        locate("bluefilm", data=tmp_path, bluefilm=None, out=tmp_path, console=Console(quiet=True))


def test_what_a_row_needs_is_run_before_it():
    assert [v.name for v in chosen(["flips"])] == ["full", "flips"]
    assert [v.name for v in chosen(["ceiling"])] == ["full", "ceiling"]
    assert [v.name for v in chosen(["plain"])] == ["plain"]
    assert chosen(["all"]) == list(VARIANTS)
    with pytest.raises(ValueError, match="'flip' is no row"):
        chosen(["flip"])


def test_every_line_is_of_a_variant_and_every_variant_but_withheld_has_a_line():
    assert {line.variant for line in LINES} == set(BY_NAME) - {"withheld"}


def test_a_switch_that_does_not_exist_is_left_out_with_a_sentence(monkeypatch):
    strange = type(VARIANTS[0])("new", "a switch to come", {"cam": {"magic": 1}})
    found, said = present([strange, BY_NAME["full"]])
    assert found == [BY_NAME["full"]]
    assert said == ["new: left out, this version's config has no cam.magic"]


def test_seeds_and_changes_reach_the_config(images, tmp_path):
    site = Site(tmp_path / "site", images, 3, {"augment": {"views": 4}, "train_vit": {"epochs": 1}})
    for variant in present(VARIANTS)[0]:
        config = site.config(variant)
        assert [
            getattr(config, name).seed for name in ("augment", "prompt", "train_vit", "train_fusion")
        ] == [3] * 4
    assert site.config(BY_NAME["full"]).augment.views == 4
    assert site.config(BY_NAME["plain"]).train_vit.contrast == 0


def test_equal_networks_have_one_name(images, tmp_path):
    site = Site(tmp_path / "site", images, 0, {})
    keys = {v.name: site.network_keys(v) for v in present(VARIANTS)[0]}
    assert len({keys[name]["vit"] for name in ("full", "flips", "points", "one-scale", "boxes")}) == 1
    assert keys["plain"]["vit"] != keys["full"]["vit"]
    assert keys["one-look"]["fusion"] == keys["full"]["fusion"] != keys["points"]["fusion"]
    assert len({site.recipe(v) for v in VARIANTS if v.missing() is None}) == len(present(VARIANTS)[0])
    assert keys["no-guide"] == keys["full"]
    other = Site(tmp_path / "site", images, 1, {})
    assert other.network_keys(BY_NAME["full"])["vit"] != keys["full"]["vit"]


@pytest.mark.parametrize(
    ("changed", "same"),
    [("fuse", {"vit", "fusion"}), ("cam", {"vit"}), ("ensemble", {"vit"}), ("ingest", set())],
)
def test_a_network_is_kept_as_long_as_nothing_that_it_learned_from_has_changed(
    images, tmp_path, monkeypatch, changed, same
):
    site = Site(tmp_path / "site", images, 0, {})
    before, row = site.network_keys(BY_NAME["full"]), site.recipe(BY_NAME["full"])
    found = [
        replace(stage, version=stage.version + 1) if stage.name == changed else stage for stage in stages()
    ]
    monkeypatch.setattr(quality_run, "stages", lambda: found)
    after = site.network_keys(BY_NAME["full"])
    assert {kind for kind in before if before[kind] == after[kind]} == same
    assert site.recipe(BY_NAME["full"]) != row


def test_settings_merge_section_by_section():
    assert merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"b": 4}) == {"a": {"x": 1, "y": 3}, "b": 4}


def test_one_seed_has_no_spread():
    assert cell([0.5]) == "50.0"
    assert cell([0.4, None, 0.6]) == "50.0 ± 14.1"
    assert cell([None]) == "–"


def test_a_page_is_made_of_whatever_rows_there_are():
    metrics = {
        "mIoU": 0.5,
        "mIoU_foreground": 0.25,
        "ACC": 0.9,
        "ignored": 0.0,
        "IoU": {"background": 0.75, "a": 0.25},
    }
    better = metrics | {"mIoU": 0.75}
    row = {"set": "s", "seed": 0, "images": 3, "classes": ["a"], "code": "x", "machine": "m"}
    confidence = {"auroc": 0.9, "auroc_defects": None, "kept": 0.25, "dropped": 0.5, "ece": 0.125}
    found = {"s": {"ceiling": [row | {"versions": {"P": metrics}, "confidence": confidence}],
                   "full": [row | {"versions": {"P": better, "P1°": metrics, "P2°": metrics},
                                   "confidence": confidence, "score": {"mean": 0.99}}],
                   "withheld": [row | {"score": {"mean": 0.8}}]}}  # fmt: skip
    text = page(found, ["Left out: t"], {})
    assert "| ceiling | P | 50.0 | 25.0 | 90.0 | 75.0 | 25.0 | 0.0 |" in text
    assert "| P over the better of P1° and P2° | mIoU | 25.00 |" in text
    assert "| full | 99.0 | 90.0 | – | 25.0 | 50.0 | 25.0 | 12.5 | 80.0 |" in text
