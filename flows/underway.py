"""How far a run is, for whoever asks meanwhile: noted in the store by the run, read by `status` and by the pages."""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from flows.plan import Plan
from flows.progress import Bars, Pace, about_left
from storage.lock import Held, UnclearLockError, held
from storage.receipts import now
from storage.store import Store
from viewer.words import so_long, so_many

KEY = "progress.json"
EVERY = 5.0
"""Seconds between two notes of one step."""


@dataclass(frozen=True)
class Progress:
    """How far a run is with its step."""

    token: int
    """Of the writer's lock under which it was noted: another holder's note says nothing of this one."""
    step: str
    done: int
    total: int
    """0 where it is not known yet."""
    unit: str
    """What is counted, a plural."""
    at: str
    """When it was noted, in UTC, ISO 8601."""
    left: float | None = None
    """Seconds left then, at the pace so far, of this part of the step; None where that was not known."""

    @property
    def words(self) -> str:
        """Step and numbers."""
        if not self.total:
            return self.step
        return f"{self.step}: {self.done} of {so_many(self.total, self.unit)}"


class Noted(Bars):
    """Bars that also note in the store how far the run is; it is news and no more, so that nothing depends on it."""

    def __init__(self, shown: Bars, store: Store) -> None:
        """shown: what draws; store: whose lock the caller holds."""
        self._shown, self._store = shown, store
        self._now = Progress(store.fence, "", 0, 0, "", "")
        self._told, self._pace = -math.inf, Pace(time.monotonic())
        self._lock = threading.Lock()

    def start(self, name: str, total: int, unit: str) -> None:
        """A step begins, with so many units to do."""
        self._shown.start(name, total, unit)
        self.note(name, total, unit)

    def note(self, name: str, total: int = 0, unit: str = "") -> None:
        """The same of what is not drawn, as it is short but for very large stores."""
        with self._lock:
            self._now, self._told = Progress(self._store.fence, name, 0, total, unit, ""), -math.inf
            self._pace = Pace(time.monotonic())
        self._note()

    def advance(self, name: str, images: int) -> None:
        """So many more images are done; below 0 where a block failed."""
        self._shown.advance(name, images)
        with self._lock:
            self._now = replace(self._now, done=self._now.done + images)
        self._note()

    def reach(self, name: str, done: int, total: int, loss: float = math.nan, unit: str = "") -> None:
        """So many of a total are done."""
        self._shown.reach(name, done, total, loss, unit)
        with self._lock:
            self._pace.reach(done, time.monotonic(), anew=unit not in ("", self._now.unit))
            self._now = replace(self._now, done=done, total=total, unit=unit or self._now.unit)
        self._note()

    def finish(self, name: str) -> None:
        """A step is over: its last figures stand until the next one's."""
        self._shown.finish(name)
        with self._lock:
            self._told = -math.inf
            self._pace = Pace(time.monotonic())  # what it left undone is not to come
        self._note()

    def _note(self) -> None:
        with self._lock:
            state, moment = self._now, time.monotonic()
            if moment - self._told < EVERY:
                return
            self._told = moment
            state = replace(state, left=self._pace.left(state.done, state.total, moment))
        # news and no more: whatever a disk or a server answers, a sound run goes on, and the next commit says what lasts
        with suppress(Exception):
            self._store.put(KEY, json.dumps(asdict(replace(state, at=now()))).encode())


def progress(store: Store, holder: Held) -> Progress | None:
    """How far a holder of the store's lock is; None where it has noted nothing."""
    try:
        found = Progress(**json.loads(store.objects.get(KEY) or b"{}"))
    except (ValueError, TypeError):
        return None
    return found if found.token == holder.token else None


def words_of(store: Store, plan: Plan | None = None) -> str:
    """A clause on who is writing to the store, since when, and how far that is; empty where nobody is.

    Where the lock does not say whether anybody does, the clause says that.

    plan: the store's state, for the blocks of the step; None leaves them out.
    """
    try:
        holder = held(store.objects)
    except UnclearLockError as unclear:
        return str(unclear)
    if holder is None:
        return ""
    found = progress(store, holder)
    who, since = f"process {holder.process} on {holder.host}", _plainly(holder.since)
    at = "" if found is None else found.words + _blocks(found, plan)
    last = f"; it was at {at}" if at else ""  # the time that was left then is not left now
    if holder.alive is False:
        return (
            f"no run is under way; {who}, which held the store since {since}, was stopped or killed{last} "
            "(the next run takes over and goes on; a training from where it last kept its state, at most a minute before)"
        )
    if holder.namesake:
        return (
            f"the lock was not given back by {who}, which took it {since}{last}; whether that still runs cannot be seen from "
            "here: it ended on this machine's restart, or is on another machine of that name"
        )
    unseen = "; whether it still runs cannot be seen from this machine" if holder.alive is None else ""
    if found is None:
        return f"the store is being written: {who}, since {since} ({_ago(holder.since)}){unseen}"
    at += about_left(found.left)
    return f"a run is under way: {who}, since {since} ({_ago(holder.since)}); {at} (noted {_ago(found.at)} ago){unseen}"


def _blocks(found: Progress, plan: Plan | None) -> str:
    counts = {} if plan is None else plan.table()
    if plan is None or found.step not in counts:
        return ""
    return f", {counts[found.step]['fresh']} of {so_many(len(plan.blocks), 'blocks')}"


def _plainly(moment: str) -> str:
    return moment.replace("T", " ").replace("+00:00", " UTC")


def _ago(moment: str) -> str:
    """Time since a moment; clocks that differ make it little, never less than nothing."""
    return so_long(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))
