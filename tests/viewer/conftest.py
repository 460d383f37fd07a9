"""The real site over a small real store: in this process for requests, as a process of its own for a browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from asking import ORIGIN, Client  # noqa: F401
from labelled_store import Labelled

from viewer.guard import hosts_of
from viewer.server import Site, create_app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backend(labelled):
    from flows.browse import open_backend, open_index

    made = open_backend(labelled.store.root, open_index(labelled.store.root), labelled.root / "masks")
    assert made.refresher.run()
    return made


@pytest.fixture
def client(backend):
    site = Site("a <store>", backend.index, lambda: backend, lambda: {"count": 1, "doing": "", "stages": []})
    return Client(create_app(site, hosts=hosts_of("127.0.0.1", 8650), token=None))


@pytest.fixture(scope="module")
def served(labelled_once, tmp_path_factory):
    """`bluemask browse` as a user starts it, on a store of its own; gives its address and the store."""
    root = tmp_path_factory.mktemp("served") / "copy"
    shutil.copytree(labelled_once.root, root)
    Labelled(root).moved_from(labelled_once.root)
    command = [sys.executable, str(ROOT / "bluemask.py"), "browse", str(root / "store"), "--no-show", "--port", "0",
               "--masks", str(root / "masks")]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        yield re.match(r"http://127\.0\.0\.1:\d+/", line).group(), root / "store"
    finally:
        process.terminate()
        process.communicate(timeout=60)
