"""One writer at a time, and a token that rises with every holder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.objects import REFUSED, Objects, StoreUnwritableError

KEY = "writer.lock"
RELEASED = -1
"""No holder's token: what is still at work after the lock was left must not write."""


class StoreLockedError(RuntimeError):
    """Another process is writing to the store, or has taken it over."""


@contextmanager
def writer_lock(root: Path) -> Iterator[int]:
    """Hold the only writing place of a store in a folder; gives the holder's token.

    The system gives the place back when the process dies, however. Raises StoreLockedError, naming the
    process and host that hold it, and StoreUnwritableError where the folder is read-only.
    """
    with _opened(root) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise StoreLockedError(sentence(str(root), file.read())) from error
        file.seek(0)
        token = next_token(file.read())
        file.truncate(0)
        file.write(json.dumps(holder(token)))
        file.flush()
        os.fsync(file.fileno())
        yield token


@contextmanager
def reviews_lock(root: Path) -> Iterator[None]:
    """Hold, after waiting for it, the right to change reviews, which need no writer's lock.

    Raises StoreUnwritableError where the folder is read-only.
    """
    with _opened(root, "reviews.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(root: Path, name: str = KEY) -> Any:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return (root / name).open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise StoreUnwritableError(
            f"{root} cannot be written ({error.strerror}); mount it for writing or give this user the right, "
            "then run the same command again"
        ) from error


def holder(token: int) -> dict[str, Any]:
    """What the lock says of who holds it."""
    return {"process": os.getpid(), "host": socket.gethostname(), "token": token}


def token_of(text: str | bytes | None) -> int:
    """The token in the lock; 0 where there is none, or where it cannot be read."""
    try:
        return int(json.loads(text or "{}").get("token", 0))
    except (ValueError, TypeError, AttributeError):
        return 0


def next_token(text: str | bytes | None) -> int:
    """A higher token than the last holder's; where that is lost, one that was never used: the time."""
    last = token_of(text)
    return last + 1 if last or not text else int(time.time())


def guard(objects: Objects, token: int) -> None:
    """Raise StoreLockedError where the writer's place has gone to someone else in the meantime.

    A worker that was taken for dead, or outlived the run that sent it, must not write any more.
    """
    now = token_of(objects.get(KEY))
    if now != token:
        raise StoreLockedError(
            f"the store was taken over by another run (its token is {now}, this one's {token}); nothing was written"
        )


def sentence(root: str, held: str | bytes) -> str:
    """Who holds the lock, and what to do."""
    try:
        known = json.loads(held)
        who = f"process {known['process']} on {known['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"{root} is being written by {who}; wait until it ends, or end it, then run the command again"
