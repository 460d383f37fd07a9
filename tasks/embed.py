"""Stage embed: SAM's image encoder over all views, the costliest step of the pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, tee
from typing import TYPE_CHECKING

import numpy as np

from storage.arrays import ArraySpec
from tasks.stage import Arrays, Stage, tell

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def embed(*, augmented: np.ndarray, input_size: np.ndarray, batch: int, model: Sam, precision: str) -> Arrays:
    """Encode every view; equal pixels are encoded once.

    augmented: (image, view, ty, tx, channel=3) uint8 RGB; input_size: (image, view, extent=2) uint16.
    batch: most views a call. An image's views share a call where they fit, and so do as many whole images as fit;
    no call crosses a block.
    model: SAM in evaluation mode; precision: float32 or bfloat16.
    Returns arrays as declared in STAGE. Raises ValueError for a wrong shape, no image, or values beyond float16.
    """
    if not len(augmented):
        raise ValueError("there is no image to encode")
    keys = [tuple(map(_key, *pair)) for pair in zip(augmented, input_size, strict=True)]
    places: dict[tuple[bytes, ...], list[int]] = {}
    for n, key in enumerate(keys):
        places.setdefault(key, []).append(n)
    distinct = [equal[0] for equal in places.values()]
    views = augmented.shape[1]
    together = max(1, batch // views)
    done = 0
    whole = np.empty(0, np.float16)  # (image, view, d, h, w), as soon as the last three are known
    parts = [distinct[start : start + together] for start in range(0, len(distinct), together)]
    groups = (
        Group(
            augmented[part].reshape(-1, *augmented.shape[2:]),
            input_size[part].reshape(-1, 2),
            [key for n in part for key in keys[n]],
        )
        for part in parts
    )
    for part, halves in zip(parts, _encoded(model, groups, batch, precision, half=True), strict=True):
        if not _all_finite(halves):
            raise ValueError(
                f"image {', '.join(map(str, part))} of the block: SAM's embedding holds values that are not finite or beyond "
                "float16; use precision float32, or a sound checkpoint"
            )
        if not whole.size:
            whole = np.empty((len(keys), views, *halves.shape[1:]), np.float16)
        for n, image in zip(part, halves.reshape(len(part), *whole.shape[1:]), strict=True):
            whole[places[keys[n]]] = image
            done += len(places[keys[n]])
        tell(done)
    return {"embedding": whole}


def encode_views(model: Sam, views: np.ndarray, sizes: np.ndarray, batch: int, precision: str) -> np.ndarray:
    """Embeddings of some views, equal ones encoded once.

    views: (view, t, t, channel=3) uint8, at least one; sizes: (view, extent=2). Returns (view, d, h, w) float32.
    Raises ValueError where there is none.
    """
    if not len(views):
        raise ValueError("there is no view to encode")
    group = Group(views, sizes, list(map(_key, views, sizes)))
    return next(_encoded(model, [group], batch, precision, half=False))


class Group:
    """Views that are encoded together, each distinct one once."""

    def __init__(self, views: np.ndarray, sizes: np.ndarray, keys: Sequence[bytes]) -> None:
        """views: (view, t, t, channel=3) uint8; sizes: (view, extent=2); keys: of the views, by their content."""
        self.views, self.sizes, self.keys = views, sizes, keys
        self.distinct = [keys.index(key) for key in dict.fromkeys(keys)]

    def calls(self, batch: int) -> list[list[int]]:
        """Distinct views by call, at most `batch` each."""
        return [self.distinct[i : i + batch] for i in range(0, len(self.distinct), batch)]

    def of_all(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings of all views from those of each call."""
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(self.distinct) == len(self.keys):
            return whole
        place = {self.keys[n]: i for i, n in enumerate(self.distinct)}
        return whole[[place[key] for key in self.keys]]


def _encoded(
    model: Sam, groups: Iterable[Group], batch: int, precision: str, *, half: bool
) -> Iterator[np.ndarray]:
    """Embeddings of each group, (view, d, h, w) float32, or float16 where `half`; `batch`: most views a call."""
    from models.sam import encode_each

    sent, waiting = tee(groups)  # on a GPU the next call is made before the last one's answer is here
    calls = ((group.views[part], group.sizes[part]) for group in sent for part in group.calls(batch))
    found = encode_each(model, calls, precision, half=half)
    for group in waiting:
        yield group.of_all(list(islice(found, len(group.calls(batch)))))


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
    version=3,
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
