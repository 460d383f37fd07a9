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


class Damage(Sealed):
    """Stands at `damaged/<stage>.<block>.json`; it counts while the block's receipt names that group."""

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
    made: str
    """When that was met, in UTC, ISO 8601."""

    @property
    def words(self) -> str:
        """A sentence."""
        return (
            f"{self.stage} {self.block} is damaged: {self.group}/{self.file} {self.why} (met {self.made}); "
            "a run makes it anew"
        )


def fault(objects: Objects, key: str, sha256: str, size: int | None) -> str | None:
    """What is wrong with a file, a clause; None where its bytes have that digest. size: in bytes, None where it is not known."""
    try:
        data = objects.get(key)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if data is None:
        return "is lost"
    if size is not None and len(data) != size:
        return f"has {len(data)} bytes instead of {size}"
    return None if hashlib.sha256(data).hexdigest() == sha256 else "is not what was written"


def note(objects: Objects, receipt: Receipt, name: str) -> None:
    """Look which file of an array that could not be read is damaged, and note that; nothing where they are all sound.

    receipt: through which it was read; where it is not the present one any more, nothing is noted.
    """
    if not isinstance(objects, LocalObjects):
        return
    present = _present(objects, receipt.stage, receipt.block)
    if present is None or present.group != receipt.group or _known(objects, receipt) is not None:
        return
    for file, record in present.files.items():
        if file == "zarr.json" or file.startswith(f"{name}/"):
            why = fault(objects, f"{present.group}/{file}", record.sha256, record.size)
            if why is not None:
                record_damage(objects, receipt, file, why)
                return


def record_damage(objects: Objects, receipt: Receipt, file: str, why: str) -> None:
    """Note that a file of a block's group is damaged. why: a clause. Who may not write to the store notes nothing."""
    found = Damage(
        stage=receipt.stage, block=receipt.block, group=receipt.group, file=file, why=why, made=now()
    )
    with suppress(StoreUnwritableError, OSError):  # whoever reads is told all the same
        objects.put(_key(receipt.stage, receipt.block), seal(found))


def damages(store: Store) -> list[Damage]:
    """Damage of present arrays that was met, at most one a block of a stage; a note that cannot be read says nothing."""
    found = []
    for key in list(store.objects.list(FOLDER, ".json")) if store.local else ():
        damage = _read(store.objects, key)
        present = None if damage is None else _present(store.objects, damage.stage, damage.block)
        if damage is not None and present is not None and present.group == damage.group:
            found.append(damage)
    return found


def forget_mended(store: Store) -> None:
    """Drop notes of groups that no receipt names any more. The caller holds the writer's lock."""
    for key in list(store.objects.list(FOLDER, ".json")) if store.local else ():
        damage = _read(store.objects, key)
        if damage is None or damage.group not in _named(store, damage):
            store.delete(key)


def _named(store: Store, damage: Damage) -> set[str]:
    """Groups of the block that count, or may be taken back."""
    receipts = (store.receipt(damage.stage, damage.block), store.previous(damage.stage, damage.block))
    return {receipt.group for receipt in receipts if receipt is not None}


def _key(stage: str, block: str) -> str:
    return f"{FOLDER}/{stage}.{block}.json"


def _known(objects: Objects, receipt: Receipt) -> Damage | None:
    damage = _read(objects, _key(receipt.stage, receipt.block))
    return damage if damage is not None and damage.group == receipt.group else None


def _read(objects: Objects, key: str) -> Damage | None:
    try:
        return unseal(Damage, objects.get(key) or b"")
    except ValueError:
        return None


def _present(objects: Objects, stage: str, block: str) -> Receipt | None:
    try:
        return unseal(Receipt, objects.get(f"receipts/{stage}/{block}.json") or b"")
    except ValueError:
        return None
