"""A small real run, made once; tests take copies of it."""

import shutil

import numpy as np
import pytest
from small_run import CLASSES, Site, draw, small_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A site after its first run by the command line; tests take copies of it."""
    site = Site(tmp_path_factory.mktemp("site"))
    rng = np.random.default_rng(0)
    for n in range(14):
        kind = (*CLASSES, "good")[n % 4]
        shape = (int(rng.integers(56, 80)), int(rng.integers(56, 80)))
        draw(site.images, f"{kind}/{n:03d}.png", 5_000_000 + n, shape)
    (site.images / "blob" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    small_config(site.root)
    result = site.command("run", str(site.path))
    site.first_run = result
    return site


@pytest.fixture
def site(finished, tmp_path):
    assert finished.first_run.returncode == 3, finished.first_run.stderr + finished.first_run.stdout
    shutil.copytree(finished.root, tmp_path / "copy", ignore=shutil.ignore_patterns("prefect"))
    return Site(tmp_path / "copy")
