"""A run holds the store from its look on: before Prefect is there it can be seen, refuses another, and can be stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from small_run import ROOT, Site, draw, small_config
from waiting import until

from flows import begin, generate
from flows.runners import Alone
from flows.underway import words_of
from storage.lock import StoreLockedError, held


@pytest.fixture
def fresh(tmp_path):
    for n in range(4):
        draw(tmp_path / "images", f"dent/{n}.png", n, (32, 40))
    small_config(tmp_path)
    return Site(tmp_path)


def server_of(pid):
    """Process id of the server that Prefect has started for a process."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"uvicorn" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


def alive(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_flow_goes_on_with_the_run_and_the_lock_that_the_command_has(fresh, monkeypatch):
    seen = []

    def engine(settings):
        def flow(config, selection):
            seen.append(words_of(fresh.store))
            with pytest.raises(StoreLockedError):
                begin.run_config(config, Console(quiet=True))
            seen.append(held(fresh.store.objects).token)
            monkeypatch.setattr(begin, "_steps", lambda run: seen.append(held(run.store.objects).token))
            return begin.all_steps(settings, Alone(settings), selection, Console(quiet=True))

        return flow

    monkeypatch.setattr(generate, "runner", engine)
    summary = begin.run_config(fresh.path, Console(quiet=True))
    assert "; starting (noted" in seen[0]
    assert seen[1] == seen[2], "one holder from the look to the end"
    assert len(summary.catalogue.changes.new) == 4, "what the only look saw"
    assert held(fresh.store.objects) is None


def test_the_flow_alone_takes_the_lock_itself(fresh, monkeypatch):
    seen = []
    monkeypatch.setattr(begin, "_steps", lambda run: seen.append(words_of(run.store)))
    begin.all_steps(fresh.config, Alone(fresh.config), None, Console(quiet=True))
    assert "a run is under way" in seen[0]
    assert held(fresh.store.objects) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_while_prefect_starts_a_run_is_seen_keeps_others_out_and_is_stopped_with_its_server(fresh):
    with subprocess.Popen(
        [sys.executable, str(ROOT / "bluemask.py"), "run", str(fresh.path)],
        env=fresh.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        server = until(lambda: server_of(process.pid), 240)
        assert "; starting (noted" in words_of(fresh.store)
        second = fresh.call("run", str(fresh.path))
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert second.returncode == 1
    assert f"is being written by process {process.pid}" in second.stderr
    assert process.returncode == 128 + signal.SIGTERM
    assert said.endswith("\nbluemask: stopped; the same command goes on from what was finished\n")
    assert not list((fresh.store.root / "receipts").glob("ingest/*.json")), "it had not begun"
    until(lambda: not alive(server), 60)
    assert "stopped or killed; it was at starting" in words_of(fresh.store)
    with fresh.store.writing():
        assert held(fresh.store.objects).process == os.getpid(), "the next run takes over"
