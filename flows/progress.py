"""Progress on the terminal: a bar for every stage, with images, images per second and time left."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from models.telling import STEPS
from viewer.words import so_long, so_many

SETTLED = 20.0
"""Seconds that a part of a step goes on before its pace is taken for that of the rest."""


class Pace:
    """How fast a part of a step goes, by what it did since it began, or since it was first heard of."""

    def __init__(self, moment: float) -> None:
        """A step begins, with nothing done. moment: in seconds, of one clock that only goes forwards."""
        self._since, self._first, self._last = moment, 0, 0
        self._heard = False

    def reach(self, done: int, moment: float, *, anew: bool) -> None:
        """A part counts its own units; what was done before its first word, as by a run before this one, is no pace.

        anew: another part begins.
        """
        if anew or not self._heard or done < self._last:
            self._since, self._first = moment, done
        self._last, self._heard = done, True

    def left(self, done: int, total: int, moment: float) -> float | None:
        """Seconds until all is done, at the pace so far; None where that tells nothing yet, or nothing is left."""
        took, more = moment - self._since, done - self._first
        if took < SETTLED or more <= 0 or done >= total:
            return None
        return took / more * (total - done)


def about_left(seconds: float | None) -> str:
    """A clause on the time left, to be appended; empty where it is not known."""
    return "" if seconds is None else f", about {so_long(max(1.0, seconds))} left"


class RateColumn(ProgressColumn):
    """Images a second, over the time that the stage has been at work."""

    def render(self, task: Task) -> Text:
        """One cell."""
        images, since = task.fields.get("images", 0), task.fields.get("since")
        if not images or since is None:
            return Text("")
        until = task.fields.get("until") or time.monotonic()
        return Text(f"{images / max(1e-3, until - since):.1f} images/s", style="cyan")


class Bars:
    """One bar a step; steps may be advanced from any thread."""

    def __init__(self, progress: Progress) -> None:
        """progress: the running display."""
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def start(self, name: str, total: int, unit: str) -> None:
        """Show a step, with so many units to do."""
        with self._lock:
            task = self._progress.add_task(
                name, total=total, unit=unit, images=0, since=time.monotonic(), until=None
            )
            self._tasks[name] = task

    def advance(self, name: str, images: int) -> None:
        """So many more images are done; below 0 where a block failed."""
        with self._lock:
            task = self._progress.tasks[self._tasks[name]]
            self._progress.update(task.id, advance=images, images=task.fields["images"] + images)
            if images < 0:
                task.finished_time = None  # rich would have it finished for good

    def reach(self, name: str, done: int, total: int, loss: float = math.nan, unit: str = "") -> None:
        """A step counts its own units, perhaps others in each of its parts: so many of a total are done.

        loss: not drawn; unit: "" as it was.
        """
        with self._lock:
            task = self._progress.tasks[self._tasks[name]]
            if unit in ("", task.fields["unit"]):
                self._progress.update(task.id, completed=done, total=total)
            else:  # its speed begins anew, its time does not
                started = task.start_time
                self._progress.reset(task.id, completed=done, total=total, **(task.fields | {"unit": unit}))
                task.start_time = started

    def finish(self, name: str) -> None:
        """Stop the step's clock."""
        with self._lock:
            self._progress.update(self._tasks[name], until=time.monotonic())
            self._progress.stop_task(self._tasks[name])


class Lines(Bars):
    """The same for a log: a line where a step begins and ends, and now and then in between."""

    def __init__(self, console: Console, every: float = 60.0) -> None:
        """every: seconds between two lines of one step."""
        self._console, self._every = console, every
        self._done: dict[str, int] = {}
        self._of: dict[str, tuple[int, str]] = {}
        self._since: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._last: dict[str, str] = {}
        self._parts: dict[str, int] = {}
        self._pace: dict[str, Pace] = {}
        self._lock = threading.Lock()

    def start(self, name: str, total: int, unit: str) -> None:
        """Say what is to be done."""
        with self._lock:
            now = time.monotonic()
            self._done[name], self._of[name] = 0, (total, unit)
            self._since[name] = self._told[name] = now
            self._last[name], self._parts[name], self._pace[name] = "", 0, Pace(now)
            self._say(name, so_many(total, unit) if total else "begins")

    def advance(self, name: str, images: int) -> None:
        """So many more images are done; below 0 where a block failed."""
        with self._lock:
            self._done[name] += images
            if self._done[name] < self._of[name][0]:  # the last one's line is that of the end
                self._now_and_then(name)

    def reach(self, name: str, done: int, total: int, loss: float = math.nan, unit: str = "") -> None:
        """So many of a total are done; where another part begins, the last one's end is told."""
        with self._lock:
            before = self._of[name][1]
            self._pace[name].reach(done, time.monotonic(), anew=unit not in ("", before))
            if unit not in ("", before) and self._done[name]:
                self._end_part(name)
            self._done[name], self._of[name] = done, (total, unit or before)
            if unit == STEPS and before != STEPS and done > 1:
                self._told[name], self._last[name] = time.monotonic(), self._state(name)
                self._say(name, f"goes on where it was: {self._last[name]}")
            else:
                self._now_and_then(name)

    def finish(self, name: str) -> None:
        """Say how far it came, and how long it took."""
        with self._lock:
            took = f"in {time.monotonic() - self._since[name]:.1f} s"
            if self._parts[name]:
                self._end_part(name)
                self._say(name, f"ended {took}")
            else:
                self._say(name, f"{self._state(name)} {took}")

    def _end_part(self, name: str) -> None:
        self._parts[name] += 1
        if self._last[name] != self._state(name):
            self._say(name, self._state(name))
        self._told[name], self._last[name] = time.monotonic(), ""

    def _now_and_then(self, name: str) -> None:
        now = time.monotonic()
        if now - self._told[name] >= self._every:
            self._told[name], self._last[name] = now, self._state(name)
            left = self._pace[name].left(self._done[name], self._of[name][0], now)
            self._say(name, self._last[name] + about_left(left))

    def _state(self, name: str) -> str:
        total, unit = self._of[name]
        return f"{self._done[name]}/{so_many(total, unit)}"

    def _say(self, name: str, words: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {name}: {words}", highlight=False, markup=False)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars while the block runs; on something that is no terminal, lines."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
