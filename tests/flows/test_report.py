import base64
import re

import cv2
import numpy as np
import pytest
from rich.console import Console

from flows.report import report_of_run, write_report
from flows.upkeep import verify_store


def test_the_report_needs_nothing_but_itself(labelled, tmp_path):
    path = write_report(labelled.store.root, tmp_path / "deep" / "night.html")
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", text)
    assert "url(" not in text
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>dent</b>" not in text
    assert len(text) < 2_000_000  # small enough to mail
    pictures = [base64.b64decode(part) for part in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]
    assert len(pictures) == 8
    assert all(cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR) is not None for part in pictures)
    assert "broken.png" in text
    assert [path.name for path in path.parent.iterdir()] == ["night.html"]


def test_a_run_is_not_lost_where_its_report_cannot_be_made(labelled):
    assert report_of_run(labelled.store.root) == f"report: {labelled.store.root / 'report.html'}"
    (labelled.store.root / "report.html").unlink()
    (labelled.store.root / "report.html.new").mkdir()
    assert "no report could be made" in report_of_run(labelled.store.root)


def test_there_is_no_report_of_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no bluemask store"):
        write_report(tmp_path)


# -- after a repair ---------------------------------------------------------------------------------------


def repaired(labelled):
    """Damage a label, and repair it: exit status and what was said."""
    receipt = next(iter(labelled.store.receipts("fuse").values()))
    shard = max((labelled.store.root / receipt.group / "p" / "c").rglob("*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with (console := Console(width=200)).capture() as caught:
        code = verify_store(labelled.store.root, console, repair=True)
    return code, caught.get()


def test_a_repair_writes_the_report_anew_where_there_is_one(labelled):
    report = labelled.store.root / "report.html"
    code, said = repaired(labelled)
    assert (code, report.exists(), "report" in said) == (0, False, False)
    report.write_text("of a damaged store")
    code, said = repaired(labelled)
    assert "1 damaged, 1 repaired" in said
    assert f"report: {report}" in said
    assert code == 0
    assert report.read_text().count("data:image/jpeg;base64,") == 8
    report.write_text("nothing was damaged since")
    verify_store(labelled.store.root, Console(quiet=True), repair=True)
    assert report.read_text() == "nothing was damaged since"


def test_a_repair_is_none_the_worse_where_the_report_cannot_be_made(labelled):
    report = labelled.store.root / "report.html"
    report.write_text("old")
    (labelled.store.root / "report.html.new").mkdir()
    code, said = repaired(labelled)
    assert code == 0
    assert "no report could be made: " in said
    assert report.read_text() == "old"
