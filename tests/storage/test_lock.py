"""The writer's lock tells who holds it, without being touched; what a killed holder left is told apart."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from storage import lock
from storage.lock import KEY, StoreLockedError, UnclearLockError, alive, held, holder, writer_lock
from storage.objects import LocalObjects
from storage.receipts import now
from storage.remote import _dead

ROOT = str(Path(__file__).resolve().parents[2])
HOLD = """
import sys, time
from pathlib import Path
from storage.lock import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of a store in `tmp_path`."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT}) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_who_holds_the_lock_is_told_and_keeps_it(tmp_path, other):
    before = (tmp_path / KEY).read_bytes()
    found = held(LocalObjects(tmp_path))
    assert (found.process, found.alive) == (other.pid, True)
    assert found.since <= now()
    assert (tmp_path / KEY).read_bytes() == before
    with pytest.raises(StoreLockedError, match=f"process {other.pid} on"), writer_lock(tmp_path):
        pass


def test_a_killed_holder_is_told_as_gone_even_where_nobody_has_waited_for_it(tmp_path, other):
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its number is still taken
    assert held(LocalObjects(tmp_path)).alive is False
    other.wait()
    assert held(LocalObjects(tmp_path)).alive is False
    with writer_lock(tmp_path) as token:
        assert token == 2, "the next one takes over"


def test_a_lock_that_was_given_back_has_no_holder(tmp_path):
    objects = LocalObjects(tmp_path)
    assert held(objects) is None
    for token in (1, 2):
        with writer_lock(tmp_path) as mine:
            assert (mine, held(objects).token, held(objects).alive) == (token, token, True)
        assert held(objects) is None
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path):
        raise ZeroDivisionError
    assert held(objects) is None, "an error gives it back, too"


def test_a_number_that_was_given_again_is_another_process():
    known = holder(1, now())
    assert alive(known)
    assert not alive(known | {"began": known["began"] - 1})


@pytest.mark.parametrize("refused", [PermissionError, None])
def test_a_process_that_the_system_hides_is_not_dead(monkeypatch, refused):
    known = holder(1, now())

    def kill(process, signal):
        if refused is not None:
            raise refused

    monkeypatch.setattr(lock.os, "kill", kill)
    monkeypatch.setattr(lock, "_began", lambda process: None)  # /proc with hidepid
    assert alive(known) is True
    assert not _dead(json.dumps(known).encode()), "no second writer on S3"
    monkeypatch.setattr(lock, "_began", lambda process: known["began"] + 1)
    assert alive(known) is False, "a time that was read is believed"


def test_a_lock_without_a_time_is_held_by_whatever_has_its_number_and_runs(monkeypatch):
    known = holder(1, now()) | {"began": None}
    assert alive(known) is True
    monkeypatch.setattr(lock, "_began", lambda process: lock.ENDED)
    assert alive(known) is False


def test_elsewhere_nobody_can_tell(tmp_path):
    known = holder(1, now())
    boot, space = known["where"].split("/")

    def seen(**changes):
        (tmp_path / KEY).write_text(json.dumps(known | changes))
        found = held(LocalObjects(tmp_path))
        return found.alive, found.namesake

    assert seen() == (True, False)
    assert seen(where=f"{boot}/1") == (None, False), "another container"
    assert seen(where=f"other/{space}", host="elsewhere") == (None, False)
    assert seen(where=f"other/{space}") == (None, True), "before a restart, or another machine of that name"


@pytest.mark.parametrize("text", ["", "{}", "no json", "[]", '{"process": 1, "host": "a", "token": 3}'])
def test_a_lock_that_does_not_say_is_not_taken_for_a_free_one(tmp_path, text):
    assert held(LocalObjects(tmp_path)) is None, "there is no lock"
    (tmp_path / KEY).write_text(text)
    with pytest.raises(UnclearLockError, match="of an older version, or unreadable"):
        held(LocalObjects(tmp_path))
    with writer_lock(tmp_path):
        pass
    assert held(LocalObjects(tmp_path)) is None, "the next writer replaces it"


def test_whoever_reads_while_it_changes_hands_finds_one_holder_or_the_other(tmp_path):
    with writer_lock(tmp_path):
        pass
    reader = multiprocessing.get_context("spawn").Process(target=_watch, args=(str(tmp_path / KEY),))
    reader.start()
    while reader.is_alive():
        with writer_lock(tmp_path):
            pass
    reader.join()
    assert reader.exitcode == 0
    assert lock.token_of((tmp_path / KEY).read_text()) > 5


def _watch(path):
    for _ in range(20_000):
        with open(path, encoding="utf-8") as file:
            json.loads(file.read())
