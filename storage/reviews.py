"""What people said of a label: a verdict that names the content that it judged, a note, a corrected mask.

A review belongs to an image's content (its sha256), not to its path or block, so it survives every rerun. A
corrected mask lies beside it as an indexed PNG, written once under its own digest. Nobody can make either anew, so
both are documents, with copies and digests.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from storage.arrays import content_digest
from storage.documents import COPIES, DamagedError
from storage.lock import reviews_lock
from storage.receipts import now
from storage.store import Store, StoreError

Verdict = Literal["accept", "reject", "correct"]
"""Good as it is; not to be used; needs correction."""
MOST = 100
"""Entries of an image's history that are kept."""
NOTE = 4000
"""Longest note, in characters."""
FOLDER = "reviews"


class ReviewConflict(StoreError):
    """Somebody else reviewed the image in the meantime."""


class Review(BaseModel):
    """One entry of an image's history; the last one counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict | None = None
    """None where there is only a note or a mask."""
    judged: str = ""
    """Digest of the label content that was looked at; another label asks again."""
    note: str = Field(default="", max_length=NOTE)
    """Free text."""
    mask: str = ""
    """Digest of the corrected mask, which stands in P's place; empty where there is none."""
    classes: tuple[str, ...] = ()
    """Names of the classes from index 1, as they were when the mask was drawn."""
    source: str = "browse"
    """Where it came from: the page, or an imported file."""
    made: str = ""
    """When, in UTC, ISO 8601."""


class History(BaseModel):
    """All reviews of an image, as they stand in `reviews/<sha256>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: tuple[Review, ...] = ()
    """Oldest first."""
    count: int = 0
    """How many were ever made: the version against which a writer checks."""

    @property
    def last(self) -> Review:
        """The entry that counts; an empty one where nobody has looked."""
        return self.entries[-1] if self.entries else Review()


def label_digest(label: np.ndarray) -> str:
    """Digest of a label map's content: (y, x) uint8 of true extent."""
    return content_digest(np.asarray(label, np.uint8))


class Reviews:
    """The reviews of a store. They need no writer lock: a run never touches them."""

    def __init__(self, store: Store) -> None:
        """store: whose `reviews` folder it is; the folder is made with the first review."""
        self._store = store
        self._lock = threading.Lock()

    def history(self, sha256: str) -> History:
        """All entries of an image. Raises StoreError where the file is damaged: nobody's word is dropped."""
        data = self._read(_key(sha256))
        if data is None:
            return History()
        try:
            return History.model_validate_json(data)
        except ValueError as error:
            path = self._store.root / _key(sha256)
            raise StoreError(
                f"{path} cannot be read ({error}); to begin anew, delete it, and what has its name in {COPIES}"
            ) from error

    def _read(self, key: str) -> bytes | None:
        """Bytes of a file as they were written, or None. Raises StoreError with the remedy where they are not."""
        try:
            return self._store.documents.read(key)
        except DamagedError as error:
            raise StoreError(
                f"{self._store.root / key} is not what was written; `bluemask verify {self._store.name} --repair` "
                "restores it from its copy"
            ) from error

    def images(self) -> Iterator[str]:
        """Sha256 of every reviewed image, those whose review is lost but for its copy among them."""
        folders = (FOLDER, f"{COPIES}/{FOLDER}")
        names = {
            key.rsplit("/", 1)[-1] for folder in folders for key in self._store.objects.list(folder, ".json")
        }
        for name in sorted(names):
            if re.fullmatch(r"[0-9a-f]{64}\.json", name):
                yield name.removesuffix(".json")

    def masks(self) -> dict[str, str]:
        """Digests of the corrected masks that count, by the images' sha256: none of those rejected since.

        Raises StoreError where a review is damaged: what it said is not to be forgotten in silence.
        """
        last = {sha256: self.history(sha256).last for sha256 in self.images()}
        return {
            sha256: review.mask
            for sha256, review in last.items()
            if review.mask and review.verdict != "reject"
        }

    def add(self, sha256: str, review: Review, expected: int | None = None) -> History:
        """Append an entry. expected: the count that the caller saw; None takes any.

        Raises ReviewConflict where the count is another one by now.
        """
        with self._changing():
            before = self.history(sha256)
            _check(before, expected)
            made = review.model_copy(update={"made": now()})
            return self._write(
                sha256, History(entries=(*before.entries, made)[-MOST:], count=before.count + 1)
            )

    def undo(self, sha256: str, expected: int | None = None) -> History:
        """Take the last entry back; nothing happens where there is none. Raises ReviewConflict as `add` does."""
        with self._changing():
            before = self.history(sha256)
            _check(before, expected)
            if not before.entries:
                return before
            return self._write(sha256, History(entries=before.entries[:-1], count=before.count + 1))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, of all processes where the store lies in a folder."""
        with self._lock, reviews_lock(self._store.root) if self._store.local else nullcontext():
            yield

    def _write(self, sha256: str, history: History) -> History:
        self._put(_key(sha256), history.model_dump_json(indent=1).encode())
        return history

    def _put(self, key: str, value: bytes) -> None:
        """Write whole or not at all; again where a run that just started has swept the half-written file away."""
        try:
            self._store.documents.write(key, value)
        except FileNotFoundError:
            self._store.documents.write(key, value)

    def keep_mask(self, sha256: str, mask: np.ndarray) -> str:
        """Write a corrected mask, before the entry that names it. Returns its digest.

        mask: (y, x) uint8 label map of the image's true extent, 255 where it is to be ignored.
        """
        digest = label_digest(mask)
        sink = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(mask, np.uint8)).save(sink, format="PNG")
        with self._changing():
            self._put(_mask_key(sha256, digest), sink.getvalue())
        return digest

    def mask(self, sha256: str, review: Review | None = None) -> np.ndarray | None:
        """The corrected mask that an entry (None: the last) names: (y, x) uint8; None where it names none.

        Raises StoreError where the file is missing or does not have the content that was recorded.
        """
        review = self.history(sha256).last if review is None else review
        if not review.mask:
            return None
        key = _mask_key(sha256, review.mask)
        data = self._read(key)
        remedy = "correct the image again"
        if data is None:
            raise StoreError(f"{self._store.root / key} is missing; {remedy}")
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                mask = np.array(image.convert("L") if image.mode != "L" else image)
        except (OSError, SyntaxError, ValueError) as error:
            raise StoreError(f"{self._store.root / key} cannot be read ({error}); {remedy}") from error
        if label_digest(mask) != review.mask:
            raise StoreError(f"{self._store.root / key} is not the mask that was drawn; {remedy}")
        return mask


def _check(history: History, expected: int | None) -> None:
    if expected is not None and expected != history.count:
        raise ReviewConflict(
            f"the image was reviewed {history.count} times by now, not {expected}; load the page again"
        )


def _key(sha256: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{sha256!r} is no sha256 of an image: expected 64 hexadecimal digits")
    return f"{FOLDER}/{sha256}.json"


def _mask_key(sha256: str, digest: str) -> str:
    return f"{_key(sha256).removesuffix('.json')}.{digest[:16]}.png"
