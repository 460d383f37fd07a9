"""Receipts: the proof that a stage finished a block, and from what."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict


def now() -> str:
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Sealed(BaseModel):
    """A document that knows its own digest: one that was changed, even by a bit, is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checksum: str = ""
    """Sha256 of the document without this field."""


Document = TypeVar("Document", bound=Sealed)


def seal(document: Sealed) -> bytes:
    """The document as JSON, with its digest."""
    bare = document.model_copy(update={"checksum": ""}).model_dump_json(indent=1)
    digest = hashlib.sha256(bare.encode()).hexdigest()
    return document.model_copy(update={"checksum": digest}).model_dump_json(indent=1).encode()


def unseal(kind: type[Document], data: bytes) -> Document:
    """Read what `seal` wrote. Raises ValueError where a single byte differs."""
    document = kind.model_validate_json(data)
    if seal(document) != data:
        raise ValueError("it is not what was written: its digest differs")
    return document.model_copy(update={"checksum": ""})


class ArrayRecord(BaseModel):
    """What must be on disk for one array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """Sha256 of dtype, shape and values; what its readers' fingerprints depend on."""
    shape: tuple[int, ...]
    """Length of each axis."""
    dtype: str
    """Numpy's name."""

    @classmethod
    def of(cls, value: np.ndarray, digest: str) -> ArrayRecord:
        """Of an array whose content has that digest."""
        return cls(digest=digest, shape=value.shape, dtype=str(value.dtype))


class FileRecord(BaseModel):
    """One file of a group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    """Bytes."""
    sha256: str
    """Of the bytes on disk."""

    @classmethod
    def of(cls, data: memoryview) -> FileRecord:
        """Of a file's bytes."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


class Receipt(Sealed):
    """Stands at `receipts/<stage>/<block>.json`, renamed in after the data is durable."""

    stage: str
    """The stage that made the group."""
    block: str
    """The block that it covers."""
    fingerprint: str
    """Digest of all that the result depends on."""
    reasons: dict[str, str]
    """The fingerprint's parts by name, so that a stale block can say which of them changed."""
    group: str
    """The Zarr group, relative to the store."""
    arrays: dict[str, ArrayRecord]
    """By name."""
    files: dict[str, FileRecord]
    """By path relative to the group; a file that is not named here is garbage."""
    dropped: tuple[str, ...] = ()
    """Arrays of which the config keeps no copy: rightly absent, and made anew when a stage needs them."""
    failed: dict[int, str]
    """Images of the block that could not be done, by catalog id, with the reason."""
    seconds: float
    """Wall time that the stage took for the block."""
    images: int
    """How many images the block has."""
    made: str
    """When, in UTC, ISO 8601."""
    fence: int = 0
    """Token of the writer's lock under which it was made: it rises with every holder."""


class Failure(Sealed):
    """Stands at `receipts/<stage>/<block>.failed.json` until the block succeeds."""

    stage: str
    """The stage that failed."""
    block: str
    """The block that it failed on."""
    error: str
    """What went wrong."""
    made: str
    """When, in UTC, ISO 8601."""
