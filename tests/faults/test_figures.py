"""What a closed run leaves: figures that agree with the labels, and drift that follows a change."""

import io
import re

import numpy as np
import pytest
from pinned_site import draw
from rich.console import Console
from small_run import Silent

from flows import figures, nights
from flows.exporting import export_store
from flows.nights import LAST, close_night
from flows.steps import Run
from flows.summary import print_summary
from storage.catalog import load
from storage.reviews import Review, Reviews
from storage.store import Store
from tasks import doubt


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


def told(summary):
    sink = io.StringIO()
    print_summary(summary, Console(width=200, file=sink))
    return sink.getvalue()


def label_maps(site):
    """P of every live image, by its number."""
    rows = load(site.store)
    found = {}
    for row in rows:
        place = [r.id for r in rows if r.block == row.block].index(row.id)
        p = site.store.read_image(site.store.receipt("fuse", row.block), "p", place)
        found[row.id] = p[: row.height, : row.width]
    return found


def test_the_closing_table_says_how_many_label_maps_changed(site):
    nightly(site)
    before = label_maps(site)
    row = next(row for row in load(site.store) if row.labels)
    k = site.store.classes().index(row.labels[0]) + 1
    y, x = np.argwhere(before[row.id] != k)[0]
    (site.root / "points.csv").write_text(f"image,x,y,label\n{row.path},{x},{y},{row.labels[0]}\n")
    site.change(data={"folder": "images", "points": "points.csv"})
    summary = nightly(site)
    after = label_maps(site)
    changed = sum(not np.array_equal(before[n], after[n]) for n in before)
    assert 1 <= changed < 8, "what was marked stands in P, and not every block holds it"
    assert f"label maps changed: {changed} of 8" in told(summary)
    idle = nightly(site)
    assert (idle.idle, idle.changed) == (True, 0)
    assert "label maps changed" not in told(idle)


def test_a_first_run_compares_with_nothing_and_says_nothing_of_it(site):
    assert site.store.objects.get(figures.FIGURES) is None, "no run was closed yet"
    site.change(fuse={"views": 4})
    summary = nightly(site)
    assert summary.compared == 0
    assert "peak memory" in told(summary)
    assert "label maps changed" not in told(summary)


def score_of(words):
    return [float(part) for part in re.findall(r"\((?:score )?(0\.\d+|1\.00)\)", words)]


@pytest.fixture
def contradicted(site, monkeypatch):
    """A site whose every label is contradicted: its networks are untrained, so it is the limits that are moved."""
    for n in range(4):
        draw(site.images, f"dent/[b]new{n}.png", 55 + n)
    monkeypatch.setattr(doubt, "UNSEEN", 1.1)
    monkeypatch.setattr(doubt, "SEEN", -0.1)
    return site


def test_labels_that_the_classifier_contradicts_are_told_the_flattest_first(contradicted):
    summary = nightly(contradicted)
    assert (summary.contradictions, len(summary.contradicted)) == (12, 10)
    scores = [score_of(words) for words in summary.contradicted]
    apart = [said - given for given, said in scores]
    assert apart == pytest.approx(sorted(apart, reverse=True), abs=0.011)
    lines = told(summary).splitlines()
    begin = lines.index("12 labels that the classifier contradicts")
    assert [line.strip() for line in lines[begin + 1 : begin + 11]] == summary.contradicted
    assert lines[begin + 11] == "  and 2 more"
    assert summary.exit_code == 0


def test_an_idle_run_tells_them_again_and_reads_nothing(contradicted, monkeypatch):
    first = nightly(contradicted)
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("an idle run read an array"))
    again = nightly(contradicted)
    assert again.idle
    assert (again.contradictions, again.contradicted) == (first.contradictions, first.contradicted)


def test_they_are_in_the_report_with_both_scores(contradicted):
    summary = nightly(contradicted)
    text = (contradicted.store.root / "report.html").read_text()
    table = text.split("Labels that the classifier contradicts")[1].split("</table>")[0]
    rows = re.findall(r"<tr><th scope=.row.>.*?</tr>", table, re.DOTALL)
    assert len(rows) == 12
    assert all("data:image/jpeg;base64," in row for row in rows)
    for words, row in zip(summary.contradicted, rows, strict=False):
        given, said = score_of(words)
        assert f"<td>{given:.2f}</td>" in row
        assert f"<td>{said:.2f}</td>" in row
        assert words.split(":")[0] in row


def test_where_the_classifier_agrees_nothing_is_said(site, monkeypatch):
    monkeypatch.setattr(doubt, "UNSEEN", -0.1)  # untrained, it agrees by the limits alone
    monkeypatch.setattr(doubt, "SEEN", 1.1)
    site.change(fuse={"views": 4})
    summary = nightly(site)
    assert summary.contradictions == 0
    assert "contradicts" not in told(summary)
    assert "contradicts" not in (site.store.root / "report.html").read_text()


def test_a_contradiction_stays_told_when_the_classifier_has_learned_the_label_by_heart(
    contradicted, monkeypatch
):
    nightly(contradicted)
    monkeypatch.setattr(doubt, "UNSEEN", -0.1)
    monkeypatch.setattr(doubt, "SEEN", 1.1)
    contradicted.change(cam={"scales": [0.75]})
    again = nightly(contradicted)
    assert again.contradictions == 12
    assert all(
        "before it learned from that label; nobody has judged it" in words for words in again.contradicted
    )
    judged, moved = (words.split(":")[0] for words in again.contradicted[:2])
    row = next(row for row in load(contradicted.store) if row.path == judged)
    Reviews(contradicted.store).add(row.sha256, Review(verdict="accept", judged="0" * 64))
    to = contradicted.images / ("scratch" if moved.startswith("dent") else "dent") / "moved.png"
    (contradicted.images / moved).rename(to)
    contradicted.change(cam={"scales": [1.25]})
    last = nightly(contradicted)
    assert last.contradictions == 10
    said = io.StringIO()
    export_store(contradicted.store.root, contradicted.root / "out", Console(file=said, width=400))
    assert (
        "10 labels that the classifier contradicts, perhaps in the wrong class's folder: " in said.getvalue()
    )
    assert not {judged, moved, "dent/moved.png", "scratch/moved.png"} & {
        w.split(":")[0] for w in last.contradicted
    }


def test_figures_of_an_older_night_are_taken_on(contradicted, monkeypatch):
    """A table without contradictions, from before they were told, is made anew."""
    contradicted.finish()
    known = nights._of_block
    monkeypatch.setattr(nights, "_of_block", lambda *given: ({**row, "made": ""} for row in known(*given)))
    save = figures.save
    monkeypatch.setattr(
        figures,
        "save",
        lambda store, rows: save(store, [{k: row[k] for k in row if k != "contradiction"} for row in rows]),
    )
    nightly(contradicted)
    monkeypatch.undo()
    monkeypatch.setattr(doubt, "UNSEEN", 1.1)
    monkeypatch.setattr(doubt, "SEEN", -0.1)
    contradicted.change(fuse={"views": 4})
    assert nightly(contradicted).contradictions == 12


def test_a_contradicted_image_that_was_deleted_is_told_no_more(contradicted):
    first = nightly(contradicted)
    contradicted.change(data={"folder": "images", "max_gone": 1.0})
    gone = first.contradicted[0].split(":")[0]
    (contradicted.images / gone).unlink()
    second = nightly(contradicted)
    assert second.contradictions == first.contradictions - 1
    assert not [words for words in second.contradicted if words.startswith(gone)]
