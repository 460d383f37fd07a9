"""Prefect's own little server: it must not outlive us, and its end must not be ours."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
from prefect.exceptions import PrefectException
from prefect.server.api.server import SubprocessASGIServer

from flows import ending

AWAY = (
    "failed to reach api",
    "timed out while attempting to connect",
    "connection refused",
    "server failed to start",
)
"""What Prefect says, in lower case, where its server cannot be reached."""

_kept: dict[int, subprocess.Popen[bytes]] = {}
"""Watchers by the server's process id: their pipes are open as long as this process lives."""
gone = False
"""Whether this process had to do without a server that it began with."""


@contextmanager
def leash() -> Iterator[None]:
    """While the block runs, a server that Prefect started for us ends when we do, even by `kill -9`.

    A shell waits on a pipe that the system closes with our last breath.
    """
    watchers = [_watch(pid) for pid in _servers()]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
            if watcher.stdin:
                watcher.stdin.close()


def keep() -> None:
    """From now on, each server that Prefect started for this process ends with it, even by `kill -9`: for workers."""
    for pid in _servers():
        if pid not in _kept:
            _kept[pid] = _watch(pid)


def end() -> None:
    """End each server that Prefect started for this process, without waiting for it."""
    for pid in _servers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


ending.LAST.append(end)


def _servers() -> list[int]:
    """Process ids of the servers that this process started and that are alive: another process may bear a dead one's."""
    found = getattr(SubprocessASGIServer, "_instances", {}).values()
    started = [server.server_process for server in found if server.server_process is not None]
    return [process.pid for process in started if process.poll() is None]


def _watch(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", f"cat; kill {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def is_away(error: BaseException) -> bool:
    """Whether an error means that Prefect's server cannot be had, rather than that the work failed."""
    global gone
    gone = _says_away(error)
    return gone


def _says_away(error: BaseException) -> bool:
    if isinstance(error, httpx.TransportError | httpx.HTTPStatusError):
        return True
    said = str(error).casefold()
    own = isinstance(error, RuntimeError | PrefectException | OSError)
    return own and any(sign in said for sign in AWAY)


def said(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error) or type(error).__name__).split("\n", 1)[0][:160]
