"""A training that is killed goes on with the same command, and ends with the same weights."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from copies import copied
from small_run import ROOT, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def kill_after(site, seconds):
    with subprocess.Popen(
        [sys.executable, str(ROOT / "bluemask.py"), "run", str(site.path)],
        env=site.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not list((site.store.root / "training").glob("vit-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)  # with the server that it started
        return process.wait()


def test_a_killed_training_ends_with_the_same_weights(finished, tmp_path):
    site = Site(tmp_path / "site")
    copied(finished.root, site.root, "prefect")
    for left in site.store.root.rglob("promoted.json*"):
        left.unlink()
    shutil.rmtree(site.store.root / "training")
    before = finished.store.read_json("promoted.json")
    for seconds in (1, 4):
        kill_after(site, seconds)
    result = site.command("run", str(site.path))
    assert result.returncode == 3, result.stdout + result.stderr
    after = site.store.read_json("promoted.json")
    assert {kind: after[kind]["digest"] for kind in ("vit", "fusion")} == {
        kind: before[kind]["digest"] for kind in ("vit", "fusion")
    }
