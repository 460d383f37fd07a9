"""An array of the store that is read some images at a time, ahead of the work on them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from storage.arrays import together
from storage.receipts import Receipt
from storage.store import Store


class Streamed:
    """Images of one array, in order: as many as share a shard are in memory, and the next ones are read meanwhile.

    SAM's embeddings are the largest array by far (of vit_b 1 GB a block of 64 images and 8 views), and are wanted an image
    at a time. shape: of the whole array.
    """

    def __init__(self, store: Store, receipt: Receipt, name: str) -> None:
        """Begins to read. receipt: of the block, which holds the array. Raises StoreError where files of it are missing."""
        record = receipt.arrays[name]
        self.shape = record.shape
        size = int(np.prod(self.shape)) * np.dtype(record.dtype).itemsize
        self._step = together(self.shape[0], size)
        self._read = store.reader(receipt, name)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"read {name}")
        self._first, self._here = 0, np.empty(0)
        self._ahead: tuple[int, Future[np.ndarray]] | None = self._submit(0)

    def __len__(self) -> int:
        """Images of the array."""
        return self.shape[0]

    def __getitem__(self, n: int) -> np.ndarray:
        """One image's part, without the leading axis. Raises IndexError beyond the last, StoreError where it is damaged."""
        if not 0 <= n < len(self):
            raise IndexError(f"image {n} of {len(self)}")
        if not self._first <= n < self._first + len(self._here):
            first = n // self._step * self._step
            self._here = np.empty(0)  # the next ones come in place of these
            ahead, self._ahead = self._ahead, None  # one that failed is not asked again
            if ahead is None or ahead[0] != first:  # begun anew, as where memory did not suffice
                ahead = self._submit(first)
            self._here = ahead[1].result()
            self._first = first
            following = first + self._step
            self._ahead = self._submit(following) if following < len(self) else None
        return np.asarray(self._here[n - self._first])

    def _submit(self, start: int) -> tuple[int, Future[np.ndarray]]:
        return start, self._pool.submit(self._read, slice(start, start + self._step))
