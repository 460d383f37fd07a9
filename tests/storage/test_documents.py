"""Documents survive a crash at any write, and damage to any one of their files."""

import pickle

import pytest

from storage.documents import DamagedError, Documents
from storage.objects import LocalObjects
from storage.store import Store


def documents_of(objects):
    return Documents(objects, lambda: None)


class Dying(LocalObjects):
    """The process dies before the n-th write."""

    left = 99

    def put(self, key, value):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().put(key, value)


@pytest.mark.parametrize("writes", range(4))
def test_whatever_kills_the_writer_one_of_the_two_versions_is_read(tmp_path, writes):
    documents_of(LocalObjects(tmp_path)).write("classes.json", b"old")
    objects = Dying(tmp_path)
    objects.left = writes
    if writes < 3:
        with pytest.raises(KeyboardInterrupt):
            documents_of(objects).write("classes.json", b"new")
    else:
        documents_of(objects).write("classes.json", b"new")
    found = documents_of(LocalObjects(tmp_path))
    assert found.read("classes.json") == (b"old" if writes < 2 else b"new")
    found.settle()
    assert found.faults("classes.json") == [], "the next run completes it"
    assert found.repair("classes.json")
    assert found.faults("classes.json") == []


@pytest.mark.parametrize("writes", range(3))
def test_a_first_writing_that_was_cut_short_is_no_damage(tmp_path, writes):
    objects = Dying(tmp_path)
    objects.left = writes
    with pytest.raises(KeyboardInterrupt):
        documents_of(objects).write("classes.json", b"new")
    found = documents_of(LocalObjects(tmp_path))
    assert found.read("classes.json") == (None if writes < 2 else b"new")
    found.write("classes.json", b"newer")
    assert found.faults("classes.json") == []


@pytest.mark.parametrize("name", ["classes.json", "copies/classes.json", "copies/classes.json.sums"])
@pytest.mark.parametrize("kind", ["flip", "cut", "delete"])
def test_one_damaged_file_is_found_and_made_whole(tmp_path, name, kind):
    documents = documents_of(LocalObjects(tmp_path))
    documents.write("classes.json", b"before")
    documents.write("classes.json", b"classes")
    path = tmp_path / name
    for place in range(len(path.read_bytes())):
        data = bytearray(path.read_bytes())
        if kind == "delete":
            path.unlink()
        elif kind == "cut":
            path.write_bytes(bytes(data[:place]))
        else:
            data[place] ^= 1
            path.write_bytes(bytes(data))
        fresh = documents_of(LocalObjects(tmp_path))
        assert fresh.faults("classes.json"), place
        try:
            assert fresh.read("classes.json") == b"classes"
        except DamagedError:
            assert name == "classes.json"
        assert fresh.repair("classes.json")
        assert path.exists()
        assert fresh.read("classes.json") == b"classes"


def test_two_damaged_files_are_not_guessed_at(tmp_path):
    documents = documents_of(LocalObjects(tmp_path))
    documents.write("classes.json", b"classes")
    (tmp_path / "classes.json").write_bytes(b"classez")
    (tmp_path / "copies" / "classes.json").write_bytes(b"clasess")
    fresh = documents_of(LocalObjects(tmp_path))
    assert not fresh.repair("classes.json")
    with pytest.raises(DamagedError, match=r"classes\.json is damaged"):
        fresh.read("classes.json")


def test_what_was_never_written_is_none(tmp_path):
    assert documents_of(LocalObjects(tmp_path)).read("classes.json") is None


def test_who_may_not_write_any_more_changes_nothing(tmp_path):
    documents_of(LocalObjects(tmp_path)).write("classes.json", b"old")

    def refuse():
        raise RuntimeError("taken over")

    with pytest.raises(RuntimeError, match="taken over"):
        Documents(LocalObjects(tmp_path), refuse).write("classes.json", b"new")
    assert documents_of(LocalObjects(tmp_path)).read("classes.json") == b"old"


def test_what_was_read_here_is_not_sent_to_another_process(tmp_path):
    store = Store(tmp_path)
    store.documents.write("catalog.parquet", b"x" * 100_000)
    store.documents.read("catalog.parquet")
    sent = pickle.dumps(store)
    assert len(sent) < 10_000
    assert pickle.loads(sent).documents.read("catalog.parquet") == b"x" * 100_000
