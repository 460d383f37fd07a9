"""The reliability table: every fault, how many times, and what came of it. `python -m bench.faults`.

It runs `tests/faults` with the large numbers (50 kills, 200 damages, 200 examples of the property test), some forty
minutes on two cores, and prints and saves the table. A row is there only if its test ran and passed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """One line of the table."""

    fault: str
    how_many: str
    result: str


def run_tests(report: Path, words: list[str], *, full: bool) -> int:
    """Run the fault tests and write their report as JUnit XML; gives pytest's exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"BLUEMASK_FAULTS": "full"} if full else {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    command += [f"--junitxml={report}", "-o", "junit_family=xunit1", *(words or ["tests/faults"])]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def rows(report: Path) -> list[Row]:
    """What the tests told, in their order; a test that failed, or was left out, is a row that says so."""
    found = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        told = [p.attrib["value"].split("|") for p in case.iter("property") if p.attrib["name"] == "fault"]
        bad = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        if bad is not None:
            found.append(Row(case.attrib["name"], "–", "left out" if bad == "skipped" else "FAILED"))
        found += [Row(*parts) for parts in told if bad is None]
    return found


def table(found: list[Row], passed: int) -> str:
    """Markdown."""
    now = datetime.now(UTC).date().isoformat()
    lines = [
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {now}"
    ]
    lines += ["", "| fault | how many | result |", "| --- | --- | --- |"]
    lines += [f"| {row.fault} | {row.how_many} | {row.result} |" for row in found]
    return "\n".join([*lines, "", f"{passed} tests passed."]) + "\n"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tests", nargs="*", help="only these test files or names; all of tests/faults by default"
    )
    parser.add_argument("--quick", action="store_true", help="the small numbers of every day")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "faults.md", help="where the table is saved"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        status = run_tests(report, chosen.tests, full=not chosen.quick)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
        passed = sum(all(case.find(k) is None for k in ("failure", "error", "skipped")) for case in cases)
        text = table(rows(report), passed)
    print(text)
    chosen.out.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
