"""`bluemask run`, killed at random moments with all that it started: the same command ends it, bit for bit alike."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from copies import copied
from pinned_site import FULL, Site
from small_run import ROOT

from storage.verify import verify

KILLS = 50 if FULL else 5
pytestmark = pytest.mark.slow


def kill_after(site, seconds):
    """Run, and kill so many seconds after the catalog was written; gives the exit status."""
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
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


@pytest.mark.timeout(7200 if FULL else 300)
def test_killed_runs_end_like_an_undisturbed_one(whole, tmp_path, tell):
    copied(whole.root, tmp_path / "site", "store")
    site, rng, kills, rounds = Site(tmp_path / "site"), np.random.default_rng(3), 0, 0
    while kills < KILLS:
        status = kill_after(site, float(rng.uniform(2, 25)))
        kills += status == -signal.SIGKILL
        if status != -signal.SIGKILL or kills == KILLS:
            result = site.command("run", str(site.path))
            assert result.returncode == 0, result.stdout + result.stderr
            assert site.digests() == whole.digests()
            assert list(verify(site.store)) == []
            assert not list(site.store.root.rglob("*.partial"))
            shutil.rmtree(site.store.root)
            rounds += 1
    tell(
        "SIGKILL at random moments, then the same command",
        kills,
        f"0 lost, 0 wrong in {rounds} stores; bit-identical",
    )
