"""Receipts: the proof that a stage finished a block, and from what."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ArrayRecord(BaseModel):
    """What must be on disk for one array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """Sha256 of dtype, shape and values; what its readers' fingerprints depend on."""
    shape: tuple[int, ...]
    """Length of each axis."""
    dtype: str
    """Numpy's name."""


class FileRecord(BaseModel):
    """One file of a group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    """Bytes."""
    sha256: str
    """Of the bytes on disk."""


class Receipt(BaseModel):
    """Stands at `receipts/<stage>/<block>.json`, renamed in after the data is durable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class Failure(BaseModel):
    """Stands at `receipts/<stage>/<block>.failed.json` until the block succeeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    """The stage that failed."""
    block: str
    """The block that it failed on."""
    error: str
    """What went wrong."""
    made: str
    """When, in UTC, ISO 8601."""
