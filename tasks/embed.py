"""Stage embed: SAM's image encoder over all views, the costliest step of the pipeline."""

from __future__ import annotations

import hashlib
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
    keys = [
        hashlib.sha256(v.tobytes() + s.tobytes()).digest() for v, s in zip(augmented, input_size, strict=True)
    ]
    distinct = [keys.index(key) for key in dict.fromkeys(keys)]
    views = augmented.shape[1]
    together = max(1, batch // views)
    known: dict[bytes, np.ndarray] = {}
    for start in range(0, len(distinct), together):
        part = distinct[start : start + together]
        frames, sizes = augmented[part].reshape(-1, *augmented.shape[2:]), input_size[part].reshape(-1, 2)
        halves = _to_half(encode_views(model, frames, sizes, batch, precision), part)
        known |= zip(
            (keys[n] for n in part), halves.reshape(len(part), views, *halves.shape[1:]), strict=True
        )
    return {"embedding": np.stack([known[key] for key in keys])}  # (image, view, d, h, w)


def encode_views(model: Sam, views: np.ndarray, sizes: np.ndarray, batch: int, precision: str) -> np.ndarray:
    """Embeddings of some views, equal ones encoded once.

    views: (view, t, t, channel=3) uint8; sizes: (view, extent=2). Returns (view, d, h, w) float32.
    """
    from models.sam import encode

    keys = [
        hashlib.sha256(view.tobytes() + size.tobytes()).digest()
        for view, size in zip(views, sizes, strict=True)
    ]
    first = {key: keys.index(key) for key in keys}  # in order of appearance
    chosen = list(first.values())
    parts = [
        encode(model, views[chosen[i : i + batch]], sizes[chosen[i : i + batch]], precision)
        for i in range(0, len(chosen), batch)
    ]
    place = {key: i for i, key in enumerate(first)}
    return np.concatenate(parts)[[place[key] for key in keys]]


def _to_half(embedding: np.ndarray, images: list[int]) -> np.ndarray:
    if not (np.abs(embedding) <= np.finfo(np.float16).max).all():
        raise ValueError(
            f"image {', '.join(map(str, images))} of the block: SAM's embedding holds values that are not finite or beyond float16;"
            " use precision float32, or a sound checkpoint"
        )
    return embedding.astype(np.float16)


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
