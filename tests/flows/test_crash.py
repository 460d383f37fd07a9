"""A run that is killed at any moment goes on with the same command, and ends with the same arrays."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_run import ROOT, Site

pytestmark = pytest.mark.slow


@pytest.fixture
def pinned(finished, tmp_path):
    """A site with nothing done yet, whose networks are pinned to those of the finished one."""
    site = Site(tmp_path / "site")
    shutil.copytree(finished.root, site.root, ignore=shutil.ignore_patterns("prefect", "store"))
    promoted = finished.store.read_json("promoted.json")
    for kind in ("vit", "fusion"):
        path = finished.store.root / "checkpoints" / f"{promoted[kind]['digest']}.safetensors"
        site.change(**{f"train_{kind}": {"checkpoint": str(path)}})
    return site


def kill_after(site, seconds):
    with subprocess.Popen(
        [sys.executable, str(ROOT / "bluemask.py"), "run", str(site.path)],
        env=site.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not (site.store.root / "catalog.parquet").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)  # with the server that it started
        return process.wait()


def test_killed_runs_end_like_an_undisturbed_one(pinned, finished):
    rng = np.random.default_rng(3)
    ends = [kill_after(pinned, float(seconds)) for seconds in rng.uniform(0, 25, 5)]
    assert -signal.SIGKILL in ends, "no run was killed before it was done"
    result = pinned.command("run", str(pinned.path))
    assert result.returncode == 3, result.stdout + result.stderr
    assert pinned.digests() == finished.digests()
    assert not list(pinned.store.root.rglob("*.partial"))
    again = pinned.command("run", str(pinned.path))
    assert "nothing to do" in again.stdout


def test_a_killed_training_ends_with_the_same_weights(finished, tmp_path):
    site = Site(tmp_path / "site")
    shutil.copytree(finished.root, site.root, ignore=shutil.ignore_patterns("prefect"))
    (site.store.root / "promoted.json").unlink()
    shutil.rmtree(site.store.root / "training")
    before = finished.store.read_json("promoted.json")
    for _ in range(2):
        kill_after(site, 14)
    result = site.command("run", str(site.path))
    assert result.returncode == 3, result.stdout + result.stderr
    after = site.store.read_json("promoted.json")
    assert {kind: after[kind]["digest"] for kind in after} == {
        kind: before[kind]["digest"] for kind in before
    }
