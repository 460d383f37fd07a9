"""Stage embed: SAM's image encoder over all views, the costliest step of the pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from storage.arrays import ArraySpec
from tasks.stage import Arrays, Stage

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def embed(*, augmented: np.ndarray, input_size: np.ndarray, batch: int, model: Sam, precision: str) -> Arrays:
    """Encode every view; equal pixels are encoded once.

    augmented: (image, view, ty, tx, channel=3) uint8 RGB; input_size: (image, view, extent=2) uint16.
    batch: most views a call. An image's views share a call where they fit, and so do as many whole images as fit;
    no call crosses a block.
    model: SAM in evaluation mode; precision: float32 or bfloat16.
    Returns arrays as declared in STAGE. Raises ValueError for a wrong shape, or values beyond float16.
    """
    keys = [tuple(map(_key, *pair)) for pair in zip(augmented, input_size, strict=True)]
    distinct = [keys.index(key) for key in dict.fromkeys(keys)]
    views = augmented.shape[1]
    together = max(1, batch // views)
    known: dict[tuple[bytes, ...], np.ndarray] = {}
    for start in range(0, len(distinct), together):
        part = distinct[start : start + together]
        frames, sizes = augmented[part].reshape(-1, *augmented.shape[2:]), input_size[part].reshape(-1, 2)
        every = [key for n in part for key in keys[n]]
        halves = _encoded(model, frames, sizes, every, batch, precision, half=True)
        if not _all_finite(halves):
            raise ValueError(
                f"image {', '.join(map(str, part))} of the block: SAM's embedding holds values that are not finite or beyond "
                "float16; use precision float32, or a sound checkpoint"
            )
        known |= zip(
            (keys[n] for n in part), halves.reshape(len(part), views, *halves.shape[1:]), strict=True
        )
    return {"embedding": np.stack([known[key] for key in keys])}  # (image, view, d, h, w)


def encode_views(model: Sam, views: np.ndarray, sizes: np.ndarray, batch: int, precision: str) -> np.ndarray:
    """Embeddings of some views, equal ones encoded once.

    views: (view, t, t, channel=3) uint8; sizes: (view, extent=2). Returns (view, d, h, w) float32.
    """
    return _encoded(model, views, sizes, list(map(_key, views, sizes)), batch, precision, half=False)


def _encoded(
    model: Sam,
    views: np.ndarray,
    sizes: np.ndarray,
    keys: Sequence[bytes],
    batch: int,
    precision: str,
    *,
    half: bool,
) -> np.ndarray:
    """As `encode_views`. keys: of the views; half: float16 instead of float32."""
    from models.sam import encode

    first = {key: n for n, key in reversed(list(enumerate(keys)))}
    chosen = sorted(first.values())  # in order of appearance
    parts = [
        encode(model, views[chosen[i : i + batch]], sizes[chosen[i : i + batch]], precision, half=half)
        for i in range(0, len(chosen), batch)
    ]
    place = {keys[n]: i for i, n in enumerate(chosen)}
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole if len(chosen) == len(keys) else whole[[place[key] for key in keys]]


def _key(view: np.ndarray, size: np.ndarray) -> bytes:
    """Of a view by its content."""
    total = hashlib.sha256(np.ascontiguousarray(view).data)
    total.update(size.tobytes())
    return total.digest()


def _all_finite(halves: np.ndarray) -> bool:
    import torch  # ten times as fast as numpy in 16 bits

    return bool(torch.from_numpy(halves).isfinite().all())


STAGE = Stage(
    name="embed",
    version=2,
    function=embed,
    reads=("augmented", "input_size"),
    writes=(
        ArraySpec(
            name="embedding",
            dims=("image", "view", "d", "h", "w"),
            dtype="float16",
            kind="embedding",
            description="SAM's image embedding of each view",
        ),
    ),
    config=("embed",),
    model="sam",
    summary="SAM's encoder, once per view; labels and prompts do not touch it",
)
