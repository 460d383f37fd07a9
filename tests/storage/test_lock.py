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
from storage.lock import KEY, StoreLockedError, alive, held, holder, writer_lock
from storage.objects import LocalObjects
from storage.receipts import now

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


def test_elsewhere_nobody_can_tell_but_a_restart_has_ended_all(tmp_path):
    known = holder(1, now())
    boot, space = known["where"].split("/")

    def seen(**changes):
        (tmp_path / KEY).write_text(json.dumps(known | changes))
        return held(LocalObjects(tmp_path)).alive

    assert seen() is True
    assert seen(where=f"{boot}/1") is None, "another container"
    assert seen(where=f"other/{space}", host="elsewhere") is None
    assert seen(where=f"other/{space}") is False, "this machine, before it was started anew"


@pytest.mark.parametrize("text", ["", "{}", "no json", "[]", '{"process": 1, "host": "a", "token": 3}'])
def test_a_lock_that_says_nothing_has_no_holder_to_tell(tmp_path, text):
    (tmp_path / KEY).write_text(text)
    assert held(LocalObjects(tmp_path)) is None


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
