"""The real site over a small real store: in this process for requests, as a process of its own for a browser."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from asking import backend_of, client_of
from copies import copied
from labelled_store import Labelled

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def backend(labelled):
    return backend_of(labelled)


@pytest.fixture
def client(backend):
    return client_of(backend)


@pytest.fixture(scope="module")
def served(labelled_once, tmp_path_factory):
    """`bluemask browse` as a user starts it, on a store of its own; gives its address and the store."""
    root = tmp_path_factory.mktemp("served") / "copy"
    copied(labelled_once.root, root)
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
