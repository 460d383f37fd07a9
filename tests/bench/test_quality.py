"""`bench.quality` on a set of seconds: rows, what they share, and what a second start does again."""

import json

import cv2
import numpy as np
import pytest
import yaml

from bench import quality
from models.surfaces import generate
from tasks.evaluate import Confusion, metrics

KINDS = ("blob", "dent")
BASE = {
    "block": 4,
    "threads": 1,
    "augment": {"views": 3},
    "train_vit": {"epochs": 1, "min_steps": 1, "side": 64, "local_crops": 2, "calibration": 1},
    "train_fusion": {"min_steps": 2, "max_steps": 2, "crop": 48, "crops": 1, "batch": 2},
    "fuse": {"views": 1},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Gives a start of the bench over fourteen images; all starts of this module share one folder."""
    root = tmp_path_factory.mktemp("quality")
    for n in range(14):
        kind = KINDS[n % 2]
        surface = generate(8_000_000 + 100 * n, size=(64, 64), kind=kind, defects=2)
        mask = np.asarray(surface.instances.any(0) * (1 + n % 2), np.uint8)
        for part, pixels in (("images", surface.image), ("masks", mask)):
            path = root / "set" / part / kind / f"{n:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    (root / "base.yaml").write_text(yaml.safe_dump(BASE))
    words = ["--sets", "bluefilm", "--bluefilm", str(root / "set"), "--base", str(root / "base.yaml")]
    return root / "out", lambda *more: quality.main([*words, "--out", str(root / "out"), *more])


def rows(out):
    return {path.stem: json.loads(path.read_text()) for path in out.glob("bluefilm/seed-0/rows/*.json")}


def stamps(out, *stages):
    return {
        path: path.stat().st_mtime_ns
        for s in stages
        for path in out.glob(f"bluefilm/seed-0/store/receipts/{s}/b*.json")
    }


@pytest.mark.slow
def test_a_killed_start_goes_on_and_a_finished_one_does_nothing_again(bench, monkeypatch):
    out, start = bench
    with monkeypatch.context() as patch:
        patch.setattr(quality, "measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start("--seeds", "0", "--rows", "full")
    before = stamps(out, "cam", "embed", "mask", "fuse")
    assert before
    assert not rows(out)
    assert start("--seeds", "0", "--rows", "full") == 0
    assert stamps(out, "cam", "embed", "mask", "fuse") == before
    kept = (out / "bluefilm/seed-0/rows/full.json").stat().st_mtime_ns
    assert start("--seeds", "0", "--rows", "full") == 0
    assert (out / "bluefilm/seed-0/rows/full.json").stat().st_mtime_ns == kept
    page = (out / "results.md").read_text()
    assert "| M1 + CTC + SAM | P |" in page
    assert "| all background | all 0 |" in page


@pytest.mark.slow
def test_variants_share_what_they_do_not_change(bench):
    out, start = bench
    assert start("--seeds", "0", "--rows", "full") == 0
    embedded, seen = stamps(out, "embed"), stamps(out, "cam")
    assert start("--seeds", "0", "--rows", "points", "one-look", "ceiling", "withheld") == 0
    assert stamps(out, "embed") == embedded
    assert stamps(out, "cam") == seen
    found = rows(out)
    assert set(found) == {"full", "points", "one-look", "ceiling", "withheld"}
    assert found["points"]["versions"]["P2°"] != found["full"]["versions"]["P2°"]
    assert found["points"]["versions"]["P1°"] == found["full"]["versions"]["P1°"]
    assert found["ceiling"]["versions"]["P"]["images"] == 14
    assert all(0 <= value <= 1 for value in found["withheld"]["score"].values())
    assert len(list(out.glob("bluefilm/seed-0/networks/vit-*"))) == 1
    assert len(list(out.glob("bluefilm/seed-0/networks/fusion-*"))) == 2


@pytest.mark.slow
def test_figures_of_a_row_are_those_of_its_labels(bench):
    out, start = bench
    assert start("--seeds", "0", "--rows", "full", "withheld") == 0
    full = rows(out)["full"]
    assert full["confidence"]["kept"] == pytest.approx(full["versions"]["P"]["mIoU_foreground"], abs=1e-9)
    empty = Confusion()
    for path in sorted((out.parent / "set" / "masks").rglob("*.png")):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        empty.add(mask, 0 * mask, path.name)
    assert full["versions"]["all 0"] == metrics(empty, KINDS)
    assert all(cost["params"] > 0 and cost["gflops"] > 0 for cost in full["cost"].values())
    assert {"ingest", "embed", "cam", "train_vit", "train_fusion"} <= set(full["seconds"])
