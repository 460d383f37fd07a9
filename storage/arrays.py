"""Declared arrays as Zarr v3 groups: written once, validated, checksummed, open to any Zarr reader."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import Crc32cCodec, ZstdCodec

Kind = Literal["image", "label map", "probability", "flag", "vote", "coordinate", "embedding", "number"]
TILE = 512
"""Side of an inner chunk, in pixels, where an image is larger than that."""
PIECE = 32 << 20
"""Bytes of an array from which on it has several shards, each read and written at a time."""


class ArraySpec(BaseModel):
    """One array of the store, declared once.

    The declaration creates the Zarr array, validates what is written, stands in the array's
    attributes, and says all that a viewer needs to draw it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Unique in the whole store."""
    dims: tuple[str, ...]
    """Names of the axes; the first is always `image`."""
    dtype: str
    """A numpy dtype name, such as `uint8` or `float16`."""
    kind: Kind
    """What the values mean, hence how they are drawn."""
    description: str
    """One line for people."""
    units: str = ""
    fill: float = 0
    """The value outside an image's true extent; 255 for label maps, so that padding is never `no defect`."""

    def check(self, value: np.ndarray) -> np.ndarray:
        """Return `value` if it fits the declaration; raise ValueError that names what does not."""
        if value.ndim != len(self.dims):
            raise ValueError(
                f"array {self.name!r}: {value.ndim} axes of shape {value.shape}, "
                f"expected {len(self.dims)}: {' × '.join(self.dims)}"
            )
        if value.dtype != np.dtype(self.dtype):
            raise ValueError(f"array {self.name!r}: dtype {value.dtype}, expected {self.dtype}")
        return value

    @property
    def itemsize(self) -> int:
        """Bytes a value."""
        return np.dtype(self.dtype).itemsize

    def chunks(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of an inner chunk: one image, cut into tiles where y or x is larger than `TILE`."""
        sides = [min(n, TILE) if d in ("y", "x") else n for d, n in zip(self.dims, shape, strict=True)]
        return tuple(max(1, side) for side in (1, *sides[1:]))


def content_digest(value: np.ndarray) -> str:
    """Sha256 of an array's dtype, shape and values: what a reader's fingerprint depends on."""
    digest = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
    digest.update(np.ascontiguousarray(value).data if value.size else b"")
    return digest.hexdigest()


def together(images: int, size: int) -> int:
    """Images of an array that share a shard: even parts where their number allows it, of about PIECE bytes at the most.

    size: bytes of the array.
    """
    least = max(1, -(-size // PIECE))
    # a last shard that is not full is fetched a chunk at a time, which is slow from far away
    parts = next((n for n in range(least, 2 * least) if images % n == 0), least)
    return max(1, -(-images // parts))


def _shards(shape: Sequence[int], chunks: Sequence[int], size: int) -> tuple[int, ...]:
    """Whole images, all of them where they are small: zarr makes a shard in memory, beside its chunks.

    chunks: shape of one; size: bytes of the array.
    """
    rest = (-(-max(n, 1) // c) * c for n, c in zip(shape[1:], chunks[1:], strict=True))
    return (together(shape[0], size), *rest)


def _create(group: zarr.Group, spec: ArraySpec, value: np.ndarray) -> None:
    chunks = spec.chunks(value.shape)
    shards = _shards(value.shape, chunks, value.nbytes)
    array = group.create_array(
        spec.name,
        shape=value.shape,
        dtype=spec.dtype,
        chunks=chunks,
        shards=shards,
        # without a checksum on every inner chunk a flipped bit comes back in silence
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=spec.fill,
        dimension_names=spec.dims,
        attributes=spec.model_dump(include={"kind", "description", "units"})
        | {"bluemask": spec.model_dump()},
        # an absent chunk would read as fill, that is, as "no defect": so every chunk is written
        config={"write_empty_chunks": True},
    )
    for start in range(0, len(value), shards[0]):  # zarr would make all of them at once
        array[start : start + shards[0]] = value[start : start + shards[0]]


def write_group(
    place: Path | ZarrStore,
    specs: Sequence[ArraySpec],
    values: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> dict[str, str]:
    """Write one stage's arrays of one block as a new Zarr v3 group.

    place: the folder to make, or a Zarr store; nothing may be there.
    values: an array for every spec, and nothing else.
    Returns the content digest of each array. Raises ValueError where a value does not fit.
    """
    expected, given = {spec.name for spec in specs}, set(values)
    if expected != given:
        raise ValueError(f"{place}: arrays {sorted(given)} given, {sorted(expected)} declared")
    checked = {spec.name: spec.check(np.asarray(values[spec.name])) for spec in specs}
    group = zarr.open_group(store=_zarr(place), mode="w-", zarr_format=3, attributes=dict(attributes))
    for spec in specs:
        _create(group, spec, checked[spec.name])
    return {name: content_digest(value) for name, value in checked.items()}


def write_kept(
    place: Path | ZarrStore,
    specs: Sequence[ArraySpec],
    values: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    dropped: Sequence[str],
) -> dict[str, str]:
    """`write_group` for the arrays that are kept; of those in `dropped` the digest alone is taken."""
    kept = [spec for spec in specs if spec.name not in dropped]
    unkept = {spec.name: spec.check(np.asarray(values[spec.name])) for spec in specs if spec.name in dropped}
    rest = {name: value for name, value in values.items() if name not in unkept}
    digests = write_group(place, kept, rest, attributes)
    return digests | {name: content_digest(value) for name, value in unkept.items()}


def _zarr(place: Path | ZarrStore) -> str | ZarrStore:
    return str(place) if isinstance(place, Path) else place


def open_array(place: Path | ZarrStore, name: str) -> zarr.Array[Any]:
    """Open one array of a group for reading; slicing it reads no more than the chunks needed."""
    return zarr.open_array(store=_zarr(place), path=name, mode="r", zarr_format=3)


def read_array(place: Path | ZarrStore, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Read one array of a group, whole or from one image to another. Raises what zarr raises where a checksum does not match.

    A shard at a time: at once zarr would hold all compressed files beside what it makes of them, twice the memory. What
    vanishes on the way reads as fill: whether all is still there is for the caller to see.
    """
    found = open_array(place, name)
    first, last, _ = rows.indices(found.shape[0])
    step = (found.shards or found.chunks)[0]
    if first // step == (last - 1) // step:
        return np.asarray(found[first:last])
    wanted = np.empty((last - first, *found.shape[1:]), found.dtype)
    for start in range(first, last, step):
        stop = min(start + step, last)
        wanted[start - first : stop - first] = found[start:stop]
    return wanted
