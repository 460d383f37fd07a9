import os
import signal
import subprocess
import sys
import threading

import pytest
from small_run import ROOT

from flows.ending import ending_at_once

CODE = """
import os, signal, threading, time
from flows.ending import ending_at_once
signal.signal(signal.SIGINT, signal.{interrupted})  # whatever the tests' own process was started with
with ending_at_once():
    threading.Thread(target=time.sleep, args=(60,)).start()  # work that nobody waits for
    os.kill(os.getpid(), signal.{name})
    time.sleep({more})
    os._exit(0)
"""


def ended(name, interrupted="default_int_handler", more=60):
    code = CODE.format(name=name, interrupted=interrupted, more=more)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_it_ends_at_once_with_a_sentence_though_a_thread_is_at_work(name):
    result = ended(name)
    assert result.returncode == 128 + getattr(signal, name)
    assert result.stderr.strip() == "bluemask: stopped; the same command goes on from what was finished"


def test_an_interrupt_that_was_ignored_from_the_start_stays_so_and_a_termination_counts():
    """So begins what a script starts with `&`."""
    assert ended("SIGINT", "SIG_IGN", more=1).returncode == 0
    assert ended("SIGTERM", "SIG_IGN").returncode == 128 + signal.SIGTERM


def test_it_ends_though_nobody_reads_its_last_words():
    """As after Ctrl-C in `bluemask run … 2>&1 | tee log`, which ends `tee`, too."""
    code = CODE.format(name="SIGTERM", interrupted="default_int_handler", more=10)
    gone, ours = os.pipe()
    os.close(gone)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=ours, timeout=30, check=False)
    os.close(ours)
    assert done.returncode == 128 + signal.SIGTERM


def test_afterwards_signals_mean_what_they_meant():
    before = signal.getsignal(signal.SIGTERM)
    with ending_at_once():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_it_changes_nothing():
    seen = []

    def inside():
        with ending_at_once():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
