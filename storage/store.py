"""The store: one folder with catalog, arrays, receipts and checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import MemoryStore

from storage.arrays import ArraySpec, open_array, read_array, write_kept
from storage.damage import advice, note
from storage.documents import COPIES, Documents, file_digest, lacking
from storage.index import NAME, Mark, gather, read_index, write_index
from storage.lock import RELEASED, guard, writer_lock
from storage.objects import LocalObjects, Objects
from storage.receipts import ArrayRecord, Failure, FileRecord, Receipt, now, seal, unseal


class StoreError(RuntimeError):
    """The store does not hold what was asked for, or holds it damaged."""


class NoStoreError(StoreError, ValueError):
    """What was named is no store: wrong input."""


class WrongInputError(StoreError, ValueError):
    """What was asked of a sound store cannot be: a name that it does not know, or a place that must not be written to."""


def _remote(root: Path) -> str | None:
    from storage.remote import address  # the object store's client is loaded where there is one

    return address(root)


class Store:
    """Arrays are written once under a fingerprint's name and read only through a receipt."""

    def __init__(self, root: Path, fence: int = 0) -> None:
        """root: the store's folder, or s3://bucket/prefix; made with the first object.

        fence: token of the writer's lock that this process, or the one that sent it, holds; 0 checks nothing.
        """
        self.root, self.fence = root, fence
        self.objects: Objects = LocalObjects(root)
        if root.as_posix().startswith("s3:"):
            from storage.remote import RemoteObjects

            self.objects = RemoteObjects(_remote(root) or "")
        self.documents = Documents(self.objects, self._guard)

    @classmethod
    def existing(cls, root: Path) -> Store:
        """Open a store that must be there. Raises NoStoreError with the remedy where it is not."""
        store = cls(root)
        if store.objects.get("catalog.parquet") is None:
            raise NoStoreError(lacking(store.objects, store.name))
        return store

    @property
    def name(self) -> str:
        """How a user writes the store's place."""
        return _remote(self.root) or str(self.root)

    @property
    def local(self) -> bool:
        """Whether it lies in a folder."""
        return isinstance(self.objects, LocalObjects)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's only writing place. Raises StoreLockedError where another holds it."""
        if isinstance(self.objects, LocalObjects):
            held = writer_lock(self.root)
        else:
            from storage.remote import RemoteObjects, writer_lease

            if not isinstance(self.objects, RemoteObjects):
                raise TypeError(f"{self.objects!r} has no lock")
            held = writer_lease(self.objects)
        with held as token:
            self.fence = token
            try:
                yield
            finally:
                self.fence = RELEASED

    def _guard(self) -> None:
        if self.fence:
            guard(self.objects, self.fence)

    def put(self, key: str, value: bytes) -> None:
        """Replace an object. Raises StoreLockedError where the lock that this process held is another's by now."""
        self._guard()
        self.objects.put(key, value)

    def delete(self, key: str) -> None:
        """Remove an object or folder. Raises StoreLockedError as `put` does."""
        self._guard()
        self.objects.delete(key)

    # -- receipts ---------------------------------------------------------------------------------

    def receipt(self, stage: str, block: str) -> Receipt | None:
        """The receipt of a block's present arrays, or None where the stage has not done it."""
        data = self.objects.get(f"receipts/{stage}/{block}.json")
        return None if data is None else self._parse(data, stage, block)

    def previous(self, stage: str, block: str) -> Receipt | None:
        """The receipt before the present one, or None; what it names may have been pruned since."""
        data = self.objects.get(f"receipts/{stage}/{block}.prev.json")
        return None if data is None else self._parse(data, stage, block)

    def receipts(self, stage: str) -> dict[str, Receipt]:
        """All receipts of a stage, by block: from the stage's index as far as that is up to date."""
        entries, _ = self._gathered(stage)
        parsed = {block: self._parse(text.encode(), stage, block) for block, (_, text) in entries.items()}
        return {block: receipt for block, receipt in parsed.items() if receipt is not None}

    def write_index(self, stage: str) -> None:
        """Bring a stage's index up to date; only the holder of the writer's lock does."""
        entries, changed = self._gathered(stage)
        if changed:
            self.put(f"receipts/{stage}/{NAME}", write_index(entries))

    def _gathered(self, stage: str) -> tuple[dict[str, tuple[Mark, str]], int]:
        known = read_index(self.objects.get(f"receipts/{stage}/{NAME}"))
        return gather(
            self.objects.marks(f"receipts/{stage}"),
            known,
            lambda block: self.objects.get(f"receipts/{stage}/{block}.json"),
        )

    def _parse(self, data: bytes, stage: str, block: str) -> Receipt | None:
        """A receipt that cannot be read, or names another block, proves nothing: as if there were none."""
        try:
            receipt = unseal(Receipt, data)
        except ValueError:
            return None
        return receipt if (receipt.stage, receipt.block) == (stage, block) else None

    def intact(self, receipt: Receipt) -> bool:
        """Whether every file that the receipt names is there with its size (contents are not read)."""
        return self.objects.holds(receipt.group, {name: file.size for name, file in receipt.files.items()})

    # -- arrays -----------------------------------------------------------------------------------

    def read(self, receipt: Receipt, name: str) -> np.ndarray:
        """One array of a block, whole. Raises StoreError where files are missing or damaged."""
        return self.reader(receipt, name)(slice(None))

    def reader(self, receipt: Receipt, name: str) -> Callable[[slice], np.ndarray]:
        """What reads images of one array, as often as it is called; then and now StoreError is raised as by `read`."""
        self._require(receipt, name)
        place, (images, *rest) = self.objects.zarr(receipt.group), receipt.arrays[name].shape

        def read(rows: slice) -> np.ndarray:
            try:
                value = read_array(place, name, rows)
            except MemoryError:
                raise
            except Exception as error:  # whatever a codec raises on damaged bytes
                raise StoreError(self._damaged(receipt, name, str(error))) from error
            # what was removed on the way was read as fill, that is, as "no defect"
            if value.shape != (len(range(images)[rows]), *rest) or not self.intact(receipt):
                raise StoreError(self._damaged(receipt, name, "files changed or vanished while it was read"))
            return value

        return read

    def read_image(self, receipt: Receipt, name: str, row: int, *part: int | slice) -> np.ndarray:
        """One image's part of an array, without its leading axis; reads no other image's chunks.

        part: indices of the axes behind the first, where only a part of the image is wanted.
        """
        self._require(receipt, name)
        try:
            return np.asarray(open_array(self.objects.zarr(receipt.group), name)[(row, *part)])
        except Exception as error:  # whatever a codec raises on damaged bytes
            raise StoreError(self._damaged(receipt, name, str(error))) from error

    def _require(self, receipt: Receipt, name: str) -> None:
        if name not in receipt.arrays:
            raise StoreError(f"stage {receipt.stage!r}, block {receipt.block}: wrote no array {name!r}")
        if name in receipt.dropped:
            what = f"stage {receipt.stage!r}, block {receipt.block}"
            raise StoreError(f"{what}: {name!r} is not kept (config: keep)")
        if not self.intact(receipt):
            raise StoreError(self._damaged(receipt, name, "a file is missing or has another size"))
        # Zarr's own description bears no checksum, and a flipped bit in it can make every chunk look absent
        for part in ("zarr.json", f"{name}/zarr.json"):
            data = self.objects.get(f"{receipt.group}/{part}") or b""
            if hashlib.sha256(data).hexdigest() != receipt.files[part].sha256:
                raise StoreError(self._damaged(receipt, name, f"{part} is not what was written"))

    def _damaged(self, receipt: Receipt, name: str, why: str) -> str:
        noted = note(self.objects, receipt, name)
        remedy = advice(self.name) if noted else f"`bluemask verify {self.name} --repair` makes it anew"
        return f"{receipt.group}/{name} is damaged ({why.split(' Stored: ')[0]}); {remedy}"

    def commit(
        self,
        stage: str,
        block: str,
        fingerprint: str,
        specs: Sequence[ArraySpec],
        values: Mapping[str, np.ndarray],
        *,
        reasons: Mapping[str, str],
        attributes: Mapping[str, Any],
        failed: Mapping[int, str],
        seconds: float,
        dropped: Sequence[str] = (),
    ) -> Receipt:
        """Write a block's arrays, make them durable, then rename the receipt in.

        dropped: arrays that are not to be kept: the receipt says what they were, and no byte of them is written.
        attributes: stand in the Zarr group (image paths, classes), for whoever opens it alone.
        Returns the receipt. Whatever kills the process leaves the last receipt true.
        """
        self._guard()
        written: dict[str, Any] = {}
        digests = write_kept(MemoryStore(written), specs, values, attributes, dropped)
        files = {name: memoryview(part.as_numpy_array()).cast("B") for name, part in sorted(written.items())}
        group = self.objects.write_tree(f"arrays/{stage}/{block}/{fingerprint}", ".zarr", files)
        receipt = Receipt(
            stage=stage,
            block=block,
            fingerprint=fingerprint,
            reasons=dict(reasons),
            group=group,
            arrays={
                name: ArrayRecord.of(np.asarray(values[name]), digest) for name, digest in digests.items()
            },
            files={name: FileRecord.of(data) for name, data in files.items()},
            dropped=tuple(dropped),
            failed=dict(failed),
            seconds=round(seconds, 3),
            images=len(next(iter(values.values()))),
            made=now(),
            fence=self.fence,
        )
        self._replace(receipt)
        self.delete(f"receipts/{stage}/{block}.failed.json")
        return receipt

    def _replace(self, receipt: Receipt) -> None:
        """Make a receipt the one that counts; the one before stays beside it while its arrays may be wanted."""
        key = f"receipts/{receipt.stage}/{receipt.block}.json"
        before, tag = self.objects.tagged(key)
        self._guard()
        known = None if before is None else self._parse(before, receipt.stage, receipt.block)
        if known is not None and before is not None and known.fingerprint != receipt.fingerprint:
            self.objects.put(f"receipts/{receipt.stage}/{receipt.block}.prev.json", before)
        if not self.objects.swap(key, seal(receipt), tag):
            raise StoreError(f"{key} was replaced by another writer; nothing was changed")
        if known is not None and known.fingerprint == receipt.fingerprint and known.group != receipt.group:
            self.delete(known.group)

    def restore(self, stage: str, block: str, fingerprint: str) -> Receipt | None:
        """Take the arrays before the present ones back, if they were made from just this; None where not."""
        before = self.previous(stage, block)
        same = before is not None and before.fingerprint == fingerprint
        if before is None or not same or before.dropped or before.failed or not self.intact(before):
            return None
        self._replace(before.model_copy(update={"fence": self.fence, "made": now()}))
        self.delete(f"receipts/{stage}/{block}.failed.json")
        return self.receipt(stage, block)

    def drop(self, receipt: Receipt, name: str) -> Receipt:
        """Remove an array that the config does not keep; the receipt says so, first. Returns it."""
        files = {path: record for path, record in receipt.files.items() if not path.startswith(f"{name}/")}
        gone = receipt.model_copy(update={"files": files, "dropped": (*receipt.dropped, name)})
        self.put(f"receipts/{receipt.stage}/{receipt.block}.json", seal(gone))
        self.delete(f"{receipt.group}/{name}")
        return gone

    # -- failures ---------------------------------------------------------------------------------

    def record_failure(self, stage: str, block: str, error: str) -> None:
        """Note that a stage failed on a block; the note goes when it succeeds."""
        failure = Failure(stage=stage, block=block, error=error, made=now())
        self.put(f"receipts/{stage}/{block}.failed.json", seal(failure))

    def failures(self, stage: str) -> dict[str, Failure]:
        """Blocks on which a stage failed last time; a note that cannot be read is no news of a block."""
        found = {}
        for key in self.objects.list(f"receipts/{stage}", ".failed.json"):
            try:
                failure = unseal(Failure, self.objects.get(key) or b"")
            except ValueError:
                continue
            found[failure.block] = failure
        return found

    # -- small documents --------------------------------------------------------------------------

    def read_json(self, key: str) -> Any:
        """A JSON document, or None where there is none. Raises DamagedError where it is not what was written."""
        return json.loads(self.documents.read(key) or b"null")

    def write_json(self, key: str, value: Any) -> None:
        """Replace a JSON document wholly."""
        self.documents.write(key, json.dumps(value, indent=1, ensure_ascii=False).encode())

    # -- checkpoints ------------------------------------------------------------------------------

    def add_checkpoint(self, digest: str, data: bytes) -> None:
        """Keep a network's weights under their sha256, with a copy."""
        for folder in ("checkpoints", f"{COPIES}/checkpoints"):
            self.put(f"{folder}/{digest}.safetensors", data)

    def checkpoint(self, digest: str, cache: Path) -> Path:
        """A file with the weights of that sha256, which is checked; a remote one is fetched into `cache` once.

        Raises StoreError where there is none that is sound.
        """
        key = f"checkpoints/{digest}.safetensors"
        path = self.root / key if self.local else cache / f"{digest}.safetensors"
        if not path.is_file() and not self.local and (data := self.objects.get(key)) is not None:
            LocalObjects(cache).put(path.name, data)
        if not path.is_file() or file_digest(path) != digest:
            raise StoreError(f"{key} is damaged or lost; `bluemask verify {self.name} --repair` restores it")
        return path

    # -- classes ----------------------------------------------------------------------------------

    def classes(self) -> list[str]:
        """Names of the defect classes; class k of a label map is the k-th, from 1."""
        return list(self.read_json("classes.json") or [])

    def merged_classes(self, names: Iterable[str]) -> list[str]:
        """The classes with those appended that are new, in the order given. Raises StoreError for too many."""
        known = self.classes()
        merged = known + [name for name in dict.fromkeys(names) if name not in known]
        if len(merged) > 254:
            raise StoreError(f"{len(merged)} classes; a label map has room for 254 (0 none, 255 unknown)")
        return merged

    def add_classes(self, names: Iterable[str]) -> list[str]:
        """Append the classes that are new, in the order given; indices once given stay."""
        if (merged := self.merged_classes(names)) != self.classes():
            self.write_json("classes.json", merged)
        return merged
