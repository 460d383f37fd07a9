"""How a run ends when it is told to: at once, with a sentence, as nothing that counts can be lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SHOW_CURSOR = "\x1b[?25h"
LAST: list[Callable[[], None]] = []
"""What is done right before the end: what would outlive this process is ended there, as hooks at exit are passed over."""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """While inside, SIGTERM and Ctrl-C end this process, and Prefect's server with it, without waiting for the work under way.

    Prefect would wait for its threads, that is, for minutes, with the writer's lock held. Receipts are renamed in
    after their data is durable and trainings keep their state, so ending at any moment is what the store is made for.
    SIGINT stays ignored where this process began so, as one that a script starts with `&` does.
    Outside of the main thread it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [n for n in SIGNALS if n != signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    try:
        # nobody may be there to read it: Ctrl-C ends the `tee` behind a pipe, too
        with suppress(OSError, RuntimeError, ValueError):
            cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
            print(
                f"{cursor}\nbluemask: stopped; the same command goes on from what was finished",
                file=sys.stderr,
                flush=True,
            )
        for action in LAST:
            action()
    finally:
        os._exit(128 + number)
