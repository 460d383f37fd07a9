import subprocess
import sys
from pathlib import Path

import pytest

from storage.lock import StoreLockedError, writer_lock
from storage.objects import LocalObjects

ROOT = Path(__file__).resolve().parents[2]


def test_put_replaces_and_create_does_not(tmp_path):
    objects = LocalObjects(tmp_path)
    assert objects.get("a/b.json") is None
    objects.put("a/b.json", b"1")
    objects.put("a/b.json", b"2")
    assert objects.get("a/b.json") == b"2"
    assert not objects.create("a/b.json", b"3")
    assert objects.create("a/c.json", b"3")
    assert list(objects.list("a", ".json")) == ["a/b.json", "a/c.json"]
    assert list(objects.list("none")) == []


def test_a_folder_is_no_object(tmp_path):
    (tmp_path / "a" / "empty").mkdir(parents=True)
    assert LocalObjects(tmp_path).get("a/empty") is None


def test_nothing_half_written_is_listed(tmp_path):
    objects = LocalObjects(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.json.77.partial").write_bytes(b"half")
    assert list(objects.list("a")) == []
    assert objects.sweep() == 1
    assert not any((tmp_path / "a").iterdir())


def test_delete_takes_files_and_folders(tmp_path):
    objects = LocalObjects(tmp_path)
    objects.put("a/b/c", b"1")
    objects.delete("a/b")
    objects.delete("nothing")
    assert objects.get("a/b/c") is None


def test_a_second_writer_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from storage.lock import writer_lock\n"
        f"with writer_lock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match=f"process {holder.pid} on"), writer_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with writer_lock(tmp_path):
        pass
