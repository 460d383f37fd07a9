"""A small real run, made once; tests take copies of it."""

import json
import subprocess

import numpy as np
import pytest
from copies import copied, made_once
from small_run import CLASSES, Site, draw, small_config

SAID = "first_run.json"


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A site after its first run by the command line; tests take copies of it."""
    site = Site(made_once(tmp_path_factory, "site", first_run))
    site.first_run = subprocess.CompletedProcess(**json.loads((site.root / SAID).read_text()))
    return site


def first_run(root):
    site, rng = Site(root), np.random.default_rng(0)
    for n in range(14):
        kind = (*CLASSES, "good")[n % 4]
        shape = (int(rng.integers(56, 80)), int(rng.integers(56, 80)))
        draw(site.images, f"{kind}/{n:03d}.png", 5_000_000 + n, shape)
    (site.images / "blob" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    small_config(root)
    (root / SAID).write_text(json.dumps(vars(site.command("run", str(site.path)))))


@pytest.fixture
def site(finished, tmp_path):
    assert finished.first_run.returncode == 3, finished.first_run.stderr + finished.first_run.stdout
    copied(finished.root, tmp_path / "copy", "prefect")
    return Site(tmp_path / "copy")
