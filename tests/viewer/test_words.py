"""One of a thing is told in the singular, on pages, in the report and on the terminal."""

import re

import pytest

from flows.report import write_report
from viewer.pages import render
from viewer.words import so_many


@pytest.mark.parametrize(
    ("count", "unit", "words"),
    [
        (1, "blocks", "1 block"), (2, "blocks", "2 blocks"), (0, "blocks", "0 blocks"), (1, "classes", "1 class"),
        (3, "classes", "3 classes"), (1, "images", "1 image"), (11, "images", "11 images"),
    ],
)  # fmt: skip
def test_a_count_takes_the_form_of_its_number(count, unit, words):
    assert so_many(count, unit) == words


def test_no_page_and_no_report_tells_of_one_in_the_plural(client, labelled, tmp_path):
    report = write_report(labelled.store.root, tmp_path / "report.html").read_text()
    pages = [
        client.get("/").text,
        client.get("/run").text,
        client.get("/?name=broken&state=quarantined").text,
        report,
    ]
    assert "1 image could not be read" in pages[1]
    assert "2 blocks" in pages[1]
    for text in pages:
        assert not re.findall(r"\b1 (?:blocks|images|labels|classes)\b", re.sub(r"<[^>]+>", "", text))
        assert not re.findall(r"\b1 (?:blocks|images|labels|classes)\b", text)


@pytest.mark.parametrize(("count", "words"), [(1, "1 block<"), (2, "2 blocks<")])
def test_the_run_page_counts_its_blocks(count, words):
    heat = {"rows": [], "blocks": count, "step": 1}
    nothing = {"rows": [], "after": False}
    text = render("run.html", title="s", facts={}, pulse={}, heat=heat, times=[], trainings=[], failures=[], nights=[], classes=[],
                  quarantined=nothing, quarantine_count=0)  # fmt: skip
    assert f"<small>{words}" in text
