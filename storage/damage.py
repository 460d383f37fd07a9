"""Damage that somebody met while reading a block: noted, so that `status` tells of it and the next run mends it.

Nobody reads all bytes at every run; but what an export, a page or a stage could not read is known from then on. Of stores
in a folder alone: an object store looks after its bytes itself, and an error there mostly says that it is away.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from storage.objects import LocalObjects, Objects, StoreUnwritableError
from storage.receipts import Receipt, Sealed, now, seal, unseal

if TYPE_CHECKING:
    from storage.store import Store

FOLDER = "damaged"


def advice(store: str, run: str = "the next `bluemask run`") -> str:
    """What to do about noted damage, first things first: a clause that is the same wherever damage is told.

    A run is first, as it mends what is noted by itself; but where one file went bad others may have, which nobody has read.
    """
    return (
        f"{run} makes it anew; then `bluemask verify {store} --repair` makes sure of all that nobody has read"
    )


class Damage(Sealed):
    """Stands at `damaged/<stage>.<block>.json`; it counts as long as the block's receipt is the one it was met by."""

    stage: str
    """The stage that made the group."""
    block: str
    """The block that it covers."""
    group: str
    """The Zarr group, relative to the store."""
    file: str
    """A file of it that is not as it was written, relative to the group."""
    why: str
    """What is wrong with it, a clause."""
    receipt: str
    """When the receipt was made through which it was read."""
    made: str
    """When that was met, in UTC, ISO 8601."""

    @property
    def words(self) -> str:
        """A clause."""
        return f"{self.stage} {self.block} is damaged: {self.group}/{self.file} {self.why} (met {self.made})"

    def counts(self, present: Receipt | None) -> bool:
        """Whether it is of the group that a block has now: one that was made anew may bear the same name."""
        return present is not None and (present.group, present.made) == (self.group, self.receipt)


def fault(objects: Objects, key: str, sha256: str, size: int | None) -> str | None:
    """What is wrong with a file, a clause; None where its bytes have that digest. size: in bytes, None where it is not known."""
    try:
        return _wrong(objects, key, sha256, size)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _wrong(objects: Objects, key: str, sha256: str, size: int | None) -> str | None:
    data = objects.get(key)
    if data is None:
        return "is lost"
    if size is not None and len(data) != size:
        return f"has {len(data)} bytes instead of {size}"
    return None if hashlib.sha256(data).hexdigest() == sha256 else "is not what was written"


def note(objects: Objects, receipt: Receipt, name: str) -> bool:
    """Look which file of an array that could not be read is damaged, and note that; nothing where they are all sound.

    What cannot be read, as the share is away or too much is open, is no damage. Who may not write to the store notes nothing.
    receipt: through which it was read; where it is not the present one any more, nothing is noted.
    Returns whether damage of its block is noted, so that the next run mends it.
    """
    if not isinstance(objects, LocalObjects):
        return False
    with suppress(OSError, StoreUnwritableError):  # whoever reads is told all the same
        present = _present(objects, receipt.stage, receipt.block)
        if present is None or present.group != receipt.group:
            return False
        if _known(objects, present):
            return True
        for file, record in present.files.items():
            if file == "zarr.json" or file.startswith(f"{name}/"):
                why = _wrong(objects, f"{present.group}/{file}", record.sha256, record.size)
                if why is not None:
                    objects.put(_key(present.stage, present.block), seal(_found(present, file, why)))
                    return True
    return False


def _found(receipt: Receipt, file: str, why: str) -> Damage:
    return Damage(
        stage=receipt.stage,
        block=receipt.block,
        group=receipt.group,
        file=file,
        why=why,
        receipt=receipt.made,
        made=now(),
    )


def damages(store: Store) -> list[Damage]:
    """Damage of present arrays that was met, at most one a block of a stage; a note that cannot be read says nothing."""
    found = (_read(store.objects, key) for key in _keys(store))
    return [
        damage
        for damage in found
        if damage is not None and damage.counts(_present(store.objects, damage.stage, damage.block))
    ]


def forget_mended(store: Store) -> None:
    """Drop notes of what was made anew, or is as it was written after all. The caller holds the writer's lock."""
    for key in _keys(store):
        with suppress(OSError, StoreUnwritableError):  # of a user whose notes this one may not remove
            damage = _read(store.objects, key)
            present = None if damage is None else _present(store.objects, damage.stage, damage.block)
            if (
                damage is None
                or present is None
                or not damage.counts(present)
                or _sound(store, damage, present)
            ):
                store.delete(key)


def _sound(store: Store, damage: Damage, present: Receipt) -> bool:
    """Whether a file is as it was written, as it was brought back, or rightly gone."""
    record = present.files.get(damage.file)
    key = f"{present.group}/{damage.file}"
    return record is None or _wrong(store.objects, key, record.sha256, record.size) is None


def _keys(store: Store) -> list[str]:
    try:
        return list(store.objects.list(FOLDER, ".json")) if store.local else []
    except OSError:  # of a user whose notes this one may not see
        return []


def _key(stage: str, block: str) -> str:
    return f"{FOLDER}/{stage}.{block}.json"


def _known(objects: Objects, present: Receipt) -> bool:
    damage = _read(objects, _key(present.stage, present.block))
    return damage is not None and damage.counts(present)


def _read(objects: Objects, key: str) -> Damage | None:
    try:
        return unseal(Damage, objects.get(key) or b"")
    except (OSError, ValueError):
        return None


def _present(objects: Objects, stage: str, block: str) -> Receipt | None:
    try:
        return unseal(Receipt, objects.get(f"receipts/{stage}/{block}.json") or b"")
    except ValueError:
        return None
