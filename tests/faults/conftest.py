"""A finished pinned site, made once in this process; tests take copies of it."""

import shutil

import pytest
from pinned_site import Site, pinned_site


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    site = pinned_site(tmp_path_factory.mktemp("pinned"))
    site.finish()
    return site


@pytest.fixture
def site(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path / "copy")
    found = Site(tmp_path / "copy")
    assert found.finish() == {}, "a copy has nothing to do"
    return found


@pytest.fixture
def tell(record_property):
    """Notes a row of the reliability table: which fault, how many, what came of it."""

    def note(fault, how_many, result):
        record_property("fault", f"{fault}|{how_many}|{result}")

    return note
