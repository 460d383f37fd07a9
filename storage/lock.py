"""One writer at a time, a token that rises with every holder, and who that is."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from storage.objects import REFUSED, Objects, StoreUnwritableError
from storage.receipts import now

KEY = "writer.lock"
RELEASED = -1
"""No holder's token: what is still at work after the lock was left must not write."""
ENDED = -1
"""No time that a process began at: of one that has ended and is only listed still."""


class StoreLockedError(RuntimeError):
    """Another process is writing to the store, or has taken it over."""


class UnclearLockError(ValueError):
    """A lock that does not say whether anybody holds it: an older version's, or one that cannot be read."""


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
        known = holder(token, now())
        _replace(file, known)
        try:
            yield token
        finally:
            # a disk that takes it no more: it looks as if the process had died, and the next one takes over all the same
            with suppress(OSError):
                _replace(file, known | {"free": True})


def _replace(file: IO[str], known: Mapping[str, Any]) -> None:
    """In one write, no shorter than what was there: who reads or dies meanwhile leaves the old or the new."""
    size = os.fstat(file.fileno()).st_size
    os.pwrite(file.fileno(), json.dumps(known).encode().ljust(size), 0)
    os.fsync(file.fileno())


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
        handle = os.open(root / name, os.O_RDWR | os.O_CREAT, 0o666)
        return os.fdopen(handle, "r+", encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise StoreUnwritableError(
            f"{root} cannot be written ({error.strerror}); mount it for writing or give this user the right, "
            "then run the same command again"
        ) from error


def holder(token: int, since: str) -> dict[str, Any]:
    """What the lock says of who holds it. since: when it was taken, in UTC, ISO 8601."""
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "token": token,
        "since": since,
        "where": where(),
        "began": _began(os.getpid()),
    }


def where() -> str:
    """This machine since it started, and this view of its processes: only there does a process id mean something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    if not (boot.exists() and space.exists()):
        return socket.gethostname()
    return f"{boot.read_text().strip()}/{space.stat().st_ino}"


def _began(process: int) -> int | None:
    """When a process of this machine began, in the system's ticks: its number is given again once it is gone.

    ENDED of a process that is only listed still; None where the system does not tell: without /proc, or where that
    hides other users' processes (`hidepid`).
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return ENDED if state in "ZX" else int(rest[18])


def alive(known: Mapping[str, Any]) -> bool | None:
    """Whether the process that a lock names is still there; None where that cannot be seen from here.

    So it is of another machine and of another container. Dead is only what is not there, has ended, or began at another
    time than the lock says: where the time cannot be read, a process of that number is taken for the holder, as two
    writers are worse than a lock that stays. known: what `holder` gave.
    """
    if known.get("where") != where():
        return None
    try:
        os.kill(int(known["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # there it is, and another user's
    noted, began = known.get("began"), _began(int(known["process"]))
    return began != ENDED and (None in (noted, began) or bool(noted == began))


@dataclass(frozen=True)
class Held:
    """Who has taken a store's only writing place and not given it back."""

    process: int
    host: str
    token: int
    since: str
    """In UTC, ISO 8601."""
    alive: bool | None
    """Whether the process is still there; None where that cannot be seen from here. The next writer takes over from a dead one."""
    namesake: bool = False
    """Whether it was of this host's name and another start of it: before a restart, or another machine of that name."""


def held(objects: Objects) -> Held | None:
    """Who holds a store's writing place, by what the lock says: it is not touched. None where nobody does.

    Raises UnclearLockError where the lock does not say. The system's own lock is not tried for it: a writer that came
    at that moment would be refused.
    """
    text = objects.get(KEY)
    if text is None:
        return None
    try:
        known = json.loads(text)
        if known.get("free"):
            return None
        boot, here = (str(place).partition("/")[0] for place in (known["where"], where()))
        return Held(
            process=int(known["process"]),
            host=str(known["host"]),
            token=int(known["token"]),
            since=str(known["since"]),  # which older versions did not say, nor whether they had given it back
            alive=alive(known),
            namesake=known["host"] == socket.gethostname() and boot != here,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnclearLockError(
            "the lock does not say whether anybody writes (of an older version, or unreadable); the next run replaces it, "
            "or is refused where somebody does"
        ) from error


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
