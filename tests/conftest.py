"""Fixtures shared by all tests."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real images of ../shared/data are not there")
    return folder


@pytest.fixture(scope="session")
def labelled_once(tmp_path_factory):
    """A store with every stage done, made once a process; it is never changed."""
    from labelled_store import Labelled, draw_set, write_config

    root = tmp_path_factory.mktemp("labelled")
    draw_set(root)
    write_config(root)
    made = Labelled(root)
    made.run()
    return made


@pytest.fixture
def labelled(labelled_once, tmp_path):
    """A copy of its own for a test."""
    from labelled_store import Labelled

    shutil.copytree(labelled_once.root, tmp_path / "copy")
    copy = Labelled(tmp_path / "copy")
    copy.moved_from(labelled_once.root)
    return copy
