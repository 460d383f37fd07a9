"""Marks that do not fit their image: told before the long work, and they cost that image's label alone."""

import io

import pytest
from pinned_site import pinned_config
from rich.console import Console
from small_run import CLASSES, Silent, call

from flows import begin
from flows.runners import Alone
from flows.steps import Run
from flows.training import members
from storage.catalog import load
from storage.store import StoreError
from tasks.registry import stages


def marks_that_do_not_fit(site):
    """Points on three images: of no class, outside, of a class that the label denies; and words expected of each."""
    rows = [row for row in load(site.store) if row.labels][:3]
    kinds = [row.labels[0] for row in rows]
    denied = next(name for name in CLASSES if name != kinds[2])
    points = [f"1,1,{kinds[0]}x", f"999,1,{kinds[1]}", f"1,1,{denied}"]
    lines = [f"{row.path},{point}\n" for row, point in zip(rows, points, strict=True)]
    (site.root / "points.csv").write_text("image,x,y,label\n" + "".join(lines))
    pinned_config(site.root, data={"folder": "images", "points": "points.csv"})
    words = [
        f"did you mean '{kinds[0]}'",
        "lies outside",
        f"'{denied}' is marked, but the image has the label",
    ]
    return [row.path for row in rows], words


def ingested(site):
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        run.stage(stages()[0])
        return run, run.close()


def test_marks_that_do_not_fit_are_told_before_any_work_and_cost_that_images_label_alone(site):
    before = site.digests()
    paths, words = marks_that_do_not_fit(site)
    for _ in range(2):  # as often as one looks
        told = Run(site.store, site.config, Silent(), dry=True).catalogue.problems
        assert len(told) == 3
        for word in words:
            assert any(word in problem and "the image gets no label" in problem for problem in told), word
    run, summary = ingested(site)
    assert set(summary.failed_images) == set(paths)
    assert summary.exit_code == 3
    learned = {kind: {row.path for _, _, row in members(run.plan, kind)} for kind in ("vit", "fusion")}
    assert set(paths) <= learned["vit"], "which sees no marks"
    assert not set(paths) & learned["fusion"]
    pixels = {
        key for key in before if key.rsplit("/", 1)[-1] in ("image", "label", "sha256", "size", "slot_class")
    }
    assert pixels
    assert all(site.digests()[key] == before[key] for key in pixels)
    (site.images / paths[0]).unlink()  # its pixels are in the store, and stay there
    pinned_config(site.root, data={"folder": "images", "max_gone": 1})
    assert not ingested(site)[1].failed_images
    assert all(site.digests()[key] == before[key] for key in pixels if not key.endswith("/label"))


def test_a_repair_does_not_take_a_label_whose_marks_cannot_be_had_any_more(site):
    """The marks are said to be those of before: somebody unmounted or spoilt them since."""
    row = next(row for row in load(site.store) if row.labels)
    (site.root / "points.csv").write_text(f"image,x,y,label\n{row.path},1,1,{row.labels[0]}\n")
    pinned_config(site.root, data={"folder": "images", "points": "points.csv"})
    assert not ingested(site)[1].failed_images
    before = site.digests()
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        (site.root / "points.csv").write_text(f"image,x,y,label\n{row.path},999,1,{row.labels[0]}\n")
        run.plan.force("ingest", [row.block])
        run.job.__dict__.pop("_annotations", None)
        run.stage(stages()[0])
        summary = run.close()
    assert "lies outside" in summary.failures[f"ingest {row.block}"]
    assert site.digests() == before


@pytest.mark.parametrize("looked", [False, True])
def test_a_scheduled_run_tells_marks_that_do_not_fit_in_its_beginning(site, monkeypatch, looked):
    """By hand, `bluemask run` has looked and told before it."""
    _, words = marks_that_do_not_fit(site)
    said = io.StringIO()

    def first_step(run):
        assert all(word in said.getvalue() for word in words) != looked
        raise StoreError("enough")

    monkeypatch.setattr(begin, "_steps", first_step)
    console = Console(file=said, width=1000)
    with pytest.raises(StoreError, match="enough"):
        begin.all_steps(site.config, Alone(site.config), None, console, looked=looked)


@pytest.mark.slow
def test_a_run_tells_marks_that_do_not_fit_first_and_last(site):
    paths, words = marks_that_do_not_fit(site)
    said = call("run", str(site.path))
    assert said.returncode == 3, said.stderr
    first, last = said.stderr.split("starting Prefect", 1)[0], said.stdout
    for word in words:
        assert word in first
        assert word in last
    assert f"{len(paths)} quarantined" in last


def test_a_block_of_which_every_image_has_a_mark_that_does_not_fit_is_no_lost_share(site):
    marked = [row for row in load(site.store) if row.block == load(site.store)[0].block]
    lines = "".join(f"{row.path},1,1,nothing\n" for row in marked)
    (site.root / "points.csv").write_text(f"image,x,y,label\n{lines}")
    pinned_config(site.root, data={"folder": "images", "points": "points.csv"})
    summary = ingested(site)[1]
    assert not summary.failures
    assert set(summary.failed_images) == {row.path for row in marked}


def test_a_mark_that_cannot_be_read_costs_its_own_image_alone(site):
    row = next(row for row in load(site.store) if row.labels)
    target = (site.root / "marks" / row.path).with_suffix(".png")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"no picture")
    pinned_config(site.root, data={"folder": "images", "annotations": "marks"})
    told = Run(site.store, site.config, Silent(), dry=True).catalogue.problems
    assert [problem for problem in told if target.name in problem and "gets no label" in problem]
