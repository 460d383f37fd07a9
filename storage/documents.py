"""Small documents that cannot be made anew: each with a copy and a digest, so that damage shows and heals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.lock import KEY
from storage.objects import Objects

COPIES = "copies"
"""Folder of the copies and digests."""
ABSENT = hashlib.sha256(b"").hexdigest()
"""Digest of the version before the first."""
TRIES = 3
"""Looks at a document that another process may be replacing."""


class DamagedError(RuntimeError):
    """A document of the store is lost or differs from what was written."""


def sha256(data: bytes) -> str:
    """Hexadecimal digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lacking(objects: Objects, name: str) -> str:
    """Why a place is no store that can be read, with the remedy."""
    if Path(name).is_file():
        return f"{name} is a file, and a store is a folder; a config names its own as `store`"
    if objects.get(f"{COPIES}/catalog.parquet") is not None:
        return f"{name} has lost its catalog.parquet; `bluemask verify {name} --repair` restores it"
    if objects.get(KEY) is not None:
        return f"{name} holds nothing yet: a run began there; wait for it, or start it again"
    return f"{name} is no bluemask store (it has no catalog.parquet); make one with `bluemask run CONFIG`"


class Documents:
    """Catalog, classes, promotions and the like, by key.

    Order of writing: digests (of the new and the old version), then the document, then its copy. So
    whatever kills the process, the document is one of the two versions that the digests name.
    """

    def __init__(self, objects: Objects, guard: Callable[[], None]) -> None:
        """objects: where the bytes are; guard: raises where this process may not write any more."""
        self.objects, self._guard = objects, guard
        self._seen: dict[str, tuple[bytes, bytes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process without what was read here."""
        return vars(self) | {"_seen": {}}

    def read(self, key: str) -> bytes | None:
        """A document as it was written, or None where it never was. Raises DamagedError with the remedy."""
        sums = self.objects.get(self._sums(key))
        if sums is not None and key in self._seen and self._seen[key][0] == sums:
            return self._seen[key][1]  # read and checked before, and not replaced since
        for _ in range(TRIES):
            value, known = self.objects.get(key), self._digests(key)
            if value is not None and sha256(value) in known:
                if sums is not None and sha256(value) == known[0] and not key.startswith("reviews/"):
                    self._seen[key] = (sums, value)
                return value
            copy = self.objects.get(f"{COPIES}/{key}")
            if value == copy and not known:
                return value  # its digests are lost, or there is no such document
            if value is None and copy is None and ABSENT in known:
                return None  # the first writing of it was cut short
            if value is not None and copy is None and self.objects.get(self._sums(key)) is None:
                return value  # put there by other means
        raise DamagedError(
            f"{key} is damaged or lost; `bluemask verify STORE --repair` restores it from its copy"
        )

    def write(self, key: str, value: bytes) -> None:
        """Replace a document, its digests and its copy."""
        self._guard()
        before = self.objects.get(key)
        new, old = sha256(value), sha256(before or b"")
        self.objects.put(self._sums(key), self._sealed(new, old))
        self.objects.put(key, value)
        self.objects.put(f"{COPIES}/{key}", value)

    def faults(self, key: str) -> list[str]:
        """What is wrong with a document, its copy or its digests, a clause each."""
        value, copy, known = (
            self.objects.get(key),
            self.objects.get(f"{COPIES}/{key}"),
            self._digests(key),
        )
        if copy is None and not known and self.objects.get(self._sums(key)) is None:
            return []  # none, or put there by other means
        if value is None and copy is None and ABSENT in known:
            return []  # the first writing of it was cut short
        found = [] if known else [f"{self._sums(key)} is damaged or lost"]
        for name, data in ((key, value), (f"{COPIES}/{key}", copy)):
            if data is None:
                found.append(f"{name} is lost")
            elif known and sha256(data) not in known:
                found.append(f"{name} is not what was written")
        if not found and value != copy and value is not None:
            found.append(f"{COPIES}/{key} is older than {key}")
        if not known and value is not None and copy is not None and value != copy:
            found.append(f"{key} and its copy differ")
        return found

    def repair(self, key: str) -> bool:
        """Make document, copy and digests whole from what is left; False where nothing sound is."""
        self._guard()
        value, copy, known = (
            self.objects.get(key),
            self.objects.get(f"{COPIES}/{key}"),
            self._digests(key),
        )
        sound = [data for data in (value, copy) if data is not None and (not known or sha256(data) in known)]
        if not sound or (not known and len(sound) == 2 and value != copy):
            return False
        self.objects.put(self._sums(key), self._sealed(sha256(sound[0]), sha256(sound[0])))
        self.objects.put(key, sound[0])
        self.objects.put(f"{COPIES}/{key}", sound[0])
        return True

    def settle(self) -> None:
        """Complete what a killed writer left: a document whose copy is still the version before, or none.

        Not those that others write while a run goes on: reviews.
        """
        for key in self.names():
            if key.startswith(("checkpoints/", "reviews/")):
                continue
            known = self._digests(key)
            value = self.objects.get(key) if known else None
            if value is None or sha256(value) != known[0]:
                continue
            copy = self.objects.get(f"{COPIES}/{key}")
            if copy is None or (copy != value and sha256(copy) == known[1]):
                self._guard()
                self.objects.put(f"{COPIES}/{key}", value)

    def names(self) -> list[str]:
        """Documents that have a copy or digests."""
        names = {name.removesuffix(".sums") for name in self.objects.sizes(COPIES)}
        return sorted(names)

    def _digests(self, key: str) -> tuple[str, ...]:
        """Digests of the versions that may stand there; none where they are lost or damaged."""
        parts = (self.objects.get(self._sums(key)) or b"").decode("ascii", "replace").split("\n")
        if len(parts) != 3 or sha256("\n".join(parts[:2]).encode()) != parts[2]:
            return ()
        return parts[0], parts[1]

    @staticmethod
    def _sealed(new: str, old: str) -> bytes:
        text = f"{new}\n{old}"
        return f"{text}\n{sha256(text.encode())}".encode()

    @staticmethod
    def _sums(key: str) -> str:
        return f"{COPIES}/{key}.sums"
