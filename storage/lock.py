"""One writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StoreLockedError(RuntimeError):
    """Another process is writing to the store."""


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the store's only writing place; the system gives it back when the process dies, however.

    Raises StoreLockedError, naming the process and host that hold it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / "writer.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise StoreLockedError(_sentence(root, file.read())) from error
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def _sentence(root: Path, held: str) -> str:
    try:
        holder = json.loads(held)
        who = f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"{root} is being written by {who}; wait until it ends, or end it, then run the command again"
