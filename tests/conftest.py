"""Fixtures shared by all tests."""

import os
import shutil
from pathlib import Path

import pytest
from copies import copied, made_once

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
ROOM = 10e9
"""Bytes from which on the tests' folders lie in memory: two processes fill two to three GB of it at most, and work in some six."""


def room() -> float:
    """Bytes of memory that can be had here, also where a container may use only a part of the machine's."""
    about = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = [1024 * int(about["MemAvailable"].split()[0]), shutil.disk_usage(MEMORY).free]
    most, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if most.is_file() and most.read_text().strip().isdigit():
        free.append(int(most.read_text()) - int(used.read_text()))
    return min(free)


def pytest_configure():
    """Every test writes stores and removes them: on a disk a third of the time is waiting for it."""
    if MEMORY.is_dir() and room() > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real images of ../shared/data are not there")
    return folder


@pytest.fixture(scope="session")
def labelled_once(tmp_path_factory):
    """A store with every stage done, made once; it is never changed."""
    from labelled_store import Labelled, draw_set, write_config

    def make(root):
        draw_set(root)
        write_config(root)
        Labelled(root).run()

    return Labelled(made_once(tmp_path_factory, "labelled", make))


@pytest.fixture
def labelled(labelled_once, tmp_path):
    """A copy of its own for a test."""
    from labelled_store import Labelled

    copied(labelled_once.root, tmp_path / "copy")
    copy = Labelled(tmp_path / "copy")
    copy.moved_from(labelled_once.root)
    return copy
