"""What may go from a store: what no receipt names, what was replaced long ago, and what can be made anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from storage.documents import COPIES
from storage.objects import Objects
from storage.receipts import Receipt
from storage.store import Store

RETIRED = "retired.json"
"""When each block was first seen without a live image."""


@dataclass
class Pruning:
    """What a pruning removes: keys with their bytes and the reason."""

    store: Store
    dry: bool = False
    freed: dict[str, tuple[int, str]] = field(default_factory=dict)
    left: int = 0

    def remove(self, key: str, why: str) -> None:
        """Remove an object or folder, or only count it."""
        sizes = self.store.objects.sizes(key)
        size = sum(sizes.values()) or len(self.store.objects.get(key) or b"")
        self.freed[key] = (size, why)
        if not self.dry:
            self.store.delete(key)

    @property
    def bytes(self) -> int:
        """Bytes in all."""
        return sum(size for size, _ in self.freed.values())


def prune(
    store: Store,
    *,
    nights: int,
    quota: float | None,
    live: Collection[str],
    checkpoints: Collection[str],
    droppable: Sequence[tuple[str, str]],
    dry: bool = False,
) -> Pruning:
    """Free space. Whoever calls holds the writer's lock.

    nights: days for which what was replaced stays. quota: most bytes for the whole store; above it, all that was
    replaced goes, then the droppable arrays, oldest first. live: blocks with a live image. checkpoints: digests that
    are in use. droppable: (stage, array) in the order in which they go. Labels never go.
    """
    work, now = Pruning(store, dry), datetime.now(UTC)
    retired = _retired(store, live, now, dry=dry)
    for stage, block in _all_blocks(store.objects):
        if block not in live and _days(retired.get(block), now) >= nights:
            _remove_block(work, stage, block)
        else:
            _prune_block(work, stage, block, lambda made: _days(made, now) >= nights)
    for folder in ("checkpoints", f"{COPIES}/checkpoints"):
        for key in store.objects.list(folder, ".safetensors"):
            if key.rsplit("/", 1)[-1].split(".")[0] not in checkpoints:
                work.remove(key, "no network that is in use, nor the one before")
    for key in store.objects.list("nights", ".html"):
        if _days(_date(key), now) >= max(1, nights):
            work.remove(key, "old report")
    _obey_quota(work, quota, droppable)
    return work


def _all_blocks(objects: Objects) -> Iterator[tuple[str, str]]:
    for folder in list(objects.list("arrays")):
        for block in list(objects.list(folder)):
            yield folder.rsplit("/", 1)[-1], block.rsplit("/", 1)[-1]


def _retired(store: Store, live: Collection[str], now: datetime, *, dry: bool) -> dict[str, str]:
    before: dict[str, str] = store.read_json(RETIRED) or {}
    dead = {block for _, block in _all_blocks(store.objects)} - set(live)
    found = {block: before.get(block, now.isoformat(timespec="seconds")) for block in sorted(dead)}
    if found != before and not dry:
        store.write_json(RETIRED, found)
    return found


def _days(made: str | None, now: datetime) -> float:
    """Days since a moment; a clock that was set back makes it little, never much."""
    if made is None:
        return 0.0
    return (now - datetime.fromisoformat(made)) / timedelta(days=1)


def _date(key: str) -> str | None:
    """The moment in a report's name; None where there is none."""
    try:
        return (
            datetime.strptime(key.rsplit("/", 1)[-1], "%Y-%m-%dT%H%M%SZ.html").replace(tzinfo=UTC).isoformat()
        )
    except ValueError:
        return None


def _remove_block(work: Pruning, stage: str, block: str) -> None:
    """Receipts first: what no receipt names is garbage, whatever happens in between."""
    for ending in ("json", "prev.json", "failed.json"):
        if work.store.objects.get(f"receipts/{stage}/{block}.{ending}") is not None:
            work.remove(f"receipts/{stage}/{block}.{ending}", "no live image")
    work.remove(f"arrays/{stage}/{block}", "no live image")


def _prune_block(work: Pruning, stage: str, block: str, old: Callable[[str], bool]) -> None:
    present = work.store.receipt(stage, block)
    if present is None:
        return  # lost, perhaps: `verify` tells, and the next run makes it anew
    previous = work.store.previous(stage, block)
    key = f"receipts/{stage}/{block}.prev.json"
    if previous is None or old(present.made):
        if work.store.objects.get(key) is not None:
            work.remove(key, "replaced long ago")
        previous = None
    named = {receipt.group for receipt in (present, previous) if receipt is not None}
    for group in list(work.store.objects.list(f"arrays/{stage}/{block}")):
        if group not in named:
            work.remove(group, "no receipt names it")


def _obey_quota(work: Pruning, quota: float | None, droppable: Sequence[tuple[str, str]]) -> None:
    store = work.store
    work.left = sum(store.objects.sizes("").values()) - (work.bytes if work.dry else 0)
    if quota is None:
        return
    for key, why, remove in [*_replaced(store), *_remakable(work, droppable)]:
        if work.left <= quota:
            return
        if key not in work.freed:
            size = sum(store.objects.sizes(key).values())
            remove(work, key)
            work.freed[key] = (size, why)
            work.left -= size


Step = tuple[str, str, Callable[[Pruning, str], None]]


def _replaced(store: Store) -> Iterator[Step]:
    for stage, block in _all_blocks(store.objects):
        previous, present = store.previous(stage, block), store.receipt(stage, block)
        # a run that died between the two names of one group leaves it in both: then it is the present one
        if previous is not None and (present is None or previous.group != present.group):
            yield previous.group, "replaced; the quota", _forget(f"receipts/{stage}/{block}.prev.json")


def _forget(receipt: str) -> Callable[[Pruning, str], None]:
    def remove(work: Pruning, key: str) -> None:
        if not work.dry:
            work.store.delete(receipt)
            work.store.delete(key)

    return remove


def _remakable(work: Pruning, droppable: Sequence[tuple[str, str]]) -> Iterator[Step]:
    for stage, name in droppable:
        receipts = sorted(
            work.store.receipts(stage).values(), key=lambda receipt: (receipt.made, receipt.block)
        )
        for receipt in receipts:
            if name not in receipt.dropped:
                yield f"{receipt.group}/{name}", "made anew when needed; the quota", _drop(receipt, name)


def _drop(receipt: Receipt, name: str) -> Callable[[Pruning, str], None]:
    def remove(work: Pruning, key: str) -> None:
        if not work.dry:
            work.store.drop(receipt, name)

    return remove
