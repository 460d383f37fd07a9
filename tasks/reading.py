"""One image's arrays, read through receipts and cut to its true extent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from storage.catalog import ImageRow
from storage.receipts import Receipt
from storage.reviews import Review, Reviews
from storage.store import Store, StoreError
from tasks.registry import spec, writer


def cut(name: str, value: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image's part of an array without the padding of its block.

    name: of the array; value: it without the leading `image` axis; height, width: the image's, in pixels.
    """
    cuts = {"y": slice(height), "x": slice(width)}
    return value[tuple(cuts.get(dim, slice(None)) for dim in spec(name).dims[1:])]


class Labelled:
    """One image of a store, its arrays read when asked for and cut to its true extent."""

    def __init__(
        self, store: Store, row: ImageRow, place: int, receipts: Mapping[str, Receipt] | None = None
    ) -> None:
        """place: the image's row in its block; receipts: by stage, None reads the present ones."""
        self._store, self.row, self._place, self._receipts = store, row, place, receipts

    def receipt(self, stage: str) -> Receipt | None:
        """The receipt through which a stage's arrays are read; None where there is none."""
        if self._receipts is not None:
            return self._receipts.get(stage)
        return self._store.receipt(stage, self.row.block)

    def array(self, name: str) -> np.ndarray:
        """An array of this image without the image axis. Raises StoreError where it is not there."""
        value = self._store.read_image(self._needed(name), name, self._place)
        return cut(name, value, self.row.height, self.row.width)

    def pixel(self, name: str, x: int, y: int) -> np.ndarray:
        """What an array holds at one pixel, along its other axes; of a large image only a tile is read."""
        places = {"y": y, "x": x}
        part = [places.get(dim, slice(None)) for dim in spec(name).dims[1:]]
        return self._store.read_image(self._needed(name), name, self._place, *part)

    def _needed(self, name: str) -> Receipt:
        stage = writer(name).name
        receipt = self.receipt(stage)
        if receipt is None:
            raise StoreError(f"{self.row.path}: stage {stage!r} has not done it; `bluemask run CONFIG` does")
        return receipt

    def label(self, reviews: Reviews, review: Review | None = None, name: str = "p") -> np.ndarray:
        """The label that counts, (y, x) uint8: the mask that somebody drew, else P.

        review: the entry that decides, None the image's last one; name: of the label map that stands where nobody drew one. Raises StoreError where the mask does not have
        the image's extent.
        """
        mask = reviews.mask(self.row.sha256, review)
        if mask is None:
            return self.array(name)
        if mask.shape != (self.row.height, self.row.width):
            raise StoreError(
                f"{self.row.path}: its corrected mask is {mask.shape[1]} × {mask.shape[0]} pixels, "
                f"the image {self.row.width} × {self.row.height}; correct it again"
            )
        return mask
