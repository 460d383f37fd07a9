"""Read everything again and hold it against what the receipts and digests say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from storage.damage import fault
from storage.documents import COPIES
from storage.objects import Objects
from storage.receipts import Failure, Receipt, unseal
from storage.store import Store

Kind = Literal["document", "checkpoint", "receipt", "array", "history", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing in the store that is not as it was written."""

    kind: Kind
    """document: catalog and the like; receipt, array: of a block; history: the arrays before the present ones;
    note: why a stage failed."""
    key: str
    """Where, relative to the store."""
    why: str
    """A clause."""
    stage: str = ""
    block: str = ""


def verify(store: Store) -> Iterator[Finding]:
    """Every damage in the store. All bytes that count are read; nothing is changed."""
    yield from check_documents(store)
    yield from check_checkpoints(store)
    stages = {key.rsplit("/", 1)[-1] for top in ("receipts", "arrays") for key in store.objects.list(top)}
    for stage in sorted(stages):
        for block in sorted(_blocks(store.objects, stage)):
            yield from check_block(store, stage, block)


def _blocks(objects: Objects, stage: str) -> set[str]:
    receipts = {key.rsplit("/", 1)[-1].split(".")[0] for key in objects.list(f"receipts/{stage}", ".json")}
    return receipts | {key.rsplit("/", 1)[-1] for key in objects.list(f"arrays/{stage}")}


def check_documents(store: Store) -> Iterator[Finding]:
    """Catalog, classes, promotions and the like, each with its copy and digests."""
    for key in store.documents.names():
        if not key.startswith("checkpoints/"):
            for why in store.documents.faults(key):
                yield Finding("document", key, why)


def check_checkpoints(store: Store) -> Iterator[Finding]:
    """Weights and their copies, which bear their sha256 as a name."""
    folders = ("checkpoints", f"{COPIES}/checkpoints")
    names = {key.rsplit("/", 1)[-1] for folder in folders for key in store.objects.list(folder)}
    for name in sorted(names):
        for folder in folders:
            if (why := fault(store.objects, f"{folder}/{name}", name.split(".")[0], None)) is not None:
                yield Finding("checkpoint", f"{folder}/{name}", why)


def check_block(store: Store, stage: str, block: str) -> Iterator[Finding]:
    """One block of a stage: receipt, every file of its group, and the same of the receipt before."""
    key = f"receipts/{stage}/{block}.json"
    receipt, why = _receipt(store, key, stage, block)
    if receipt is not None:
        yield from _files(store, receipt, "array")
    elif why or list(store.objects.list(f"arrays/{stage}/{block}")):
        yield Finding("receipt", key, why or "is lost, or the run ended before it was written", stage, block)
    before = f"receipts/{stage}/{block}.prev.json"
    previous, why = _receipt(store, before, stage, block)
    if why:
        yield Finding("history", before, why, stage, block)
    if previous is not None:
        yield from _files(store, previous, "history")
    yield from _failure(store, stage, block)


def _receipt(store: Store, key: str, stage: str, block: str) -> tuple[Receipt | None, str]:
    data = store.objects.get(key)
    if data is None:
        return None, ""
    try:
        receipt = unseal(Receipt, data)
    except ValueError:
        return None, "is not what was written"
    if (receipt.stage, receipt.block) != (stage, block):
        return None, f"is that of stage {receipt.stage!r}, block {receipt.block}"
    return receipt, ""


def _failure(store: Store, stage: str, block: str) -> Iterator[Finding]:
    key = f"receipts/{stage}/{block}.failed.json"
    data = store.objects.get(key)
    if data is not None:
        try:
            unseal(Failure, data)
        except ValueError:
            yield Finding("note", key, "is not what was written", stage, block)


def _files(store: Store, receipt: Receipt, kind: Kind) -> Iterator[Finding]:
    for name, record in receipt.files.items():
        key = f"{receipt.group}/{name}"
        if (why := fault(store.objects, key, record.sha256, record.size)) is not None:
            yield Finding(kind, key, why, receipt.stage, receipt.block)
