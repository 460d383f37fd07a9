import base64
import re

import cv2
import numpy as np
import pytest

from flows.report import report_of_run, write_report


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
