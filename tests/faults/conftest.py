"""A finished pinned site, made once; tests take copies of it."""

import pytest
from copies import copied, made_once
from pinned_site import Site, pinned_site


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return Site(made_once(tmp_path_factory, "pinned", lambda root: pinned_site(root).finish()))


@pytest.fixture
def site(whole, tmp_path):
    copied(whole.root, tmp_path / "copy")
    found = Site(tmp_path / "copy")
    assert found.finish() == {}, "a copy has nothing to do"
    return found


@pytest.fixture
def tell(record_property):
    """Notes a row of the reliability table: which fault, how many, what came of it."""

    def note(fault, how_many, result):
        record_property("fault", f"{fault}|{how_many}|{result}")

    return note
