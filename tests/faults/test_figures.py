"""What a closed run leaves: figures that agree with the labels, and drift that follows a change."""

import numpy as np
import pytest
from pinned_site import draw
from small_run import Silent

from flows.nights import LAST, close_night
from flows.steps import Run
from storage.catalog import load


def nightly(site):
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        before = run.digests("fuse")
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        return close_night(run, before)


def counted(site):
    """Share of the pixels of class 1 and 2 and 3 in all live labels, straight from the arrays."""
    counts, pixels = np.zeros(256, int), 0
    rows = load(site.store)
    for row in rows:
        if row.status == "active":
            place = [r.id for r in rows if r.block == row.block].index(row.id)
            p = site.store.read_image(site.store.receipt("fuse", row.block), "p", place)
            counts += np.bincount(p[: row.height, : row.width].ravel(), minlength=256)
            pixels += row.height * row.width
    return counts[1:4] / pixels


def test_figures_agree_with_the_labels_and_drift_follows(site):
    nightly(site)
    first = site.store.read_json(LAST)["night"]
    assert list(first["shares"].values()) == pytest.approx(counted(site).tolist())
    assert (first["images"], first["changed"]) == (8, 0)
    site.change(fuse={"views": 4}, data={"folder": "images", "max_gone": 1.0})
    (site.images / "dent" / "001.png").unlink()
    draw(site.images, "dent/new.png", 55)
    summary = nightly(site)
    second = site.store.read_json(LAST)["night"]
    shares = list(second["shares"].values())
    assert shares == pytest.approx(counted(site).tolist())
    for name, share in second["shares"].items():
        if first["shares"][name]:
            assert second["drift"][name] == pytest.approx(share / first["shares"][name] - 1)
    assert second["compared"] == 7
    assert summary.exit_code == 0
    page = site.store.objects.get(site.store.read_json(LAST)["report"]).decode()
    assert "<th>new</th><td>1</td>" in page
    assert "<th>removed</th><td>1</td>" in page


def test_an_alert_makes_the_run_fail(site):
    site.change(alerts={"quarantined": 0.05})
    assert nightly(site).exit_code == 0
    (site.images / "dent" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    summary = nightly(site)
    assert summary.exit_code == 1
    assert "alerts.quarantined" in summary.alerts[0]
    assert nightly(site).exit_code == 1, "it stays so while the file is there"
