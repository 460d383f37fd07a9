"""The store: one folder with catalog, arrays, receipts and checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from storage.arrays import ArraySpec, open_array, read_array, write_kept
from storage.index import NAME, Mark, gather, marks, read_index, write_index
from storage.objects import PARTIAL, LocalObjects, fsync_folder, fsync_tree
from storage.receipts import ArrayRecord, Failure, FileRecord, Receipt


class StoreError(RuntimeError):
    """The store does not hold what was asked for, or holds it damaged."""


def now() -> str:
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Arrays are written once under a fingerprint's name and read only through a receipt."""

    def __init__(self, root: Path) -> None:
        """root: the store's folder; made where it is missing."""
        self.root = root
        self.objects = LocalObjects(root)

    @classmethod
    def existing(cls, root: Path) -> Store:
        """Open a store that must be there. Raises StoreError with the remedy where it is not."""
        if not (root / "catalog.parquet").is_file():
            raise StoreError(
                f"{root} is no bluemask store (it has no catalog.parquet); make one with `bluemask run CONFIG`"
            )
        return cls(root)

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
            self.objects.put(f"receipts/{stage}/{NAME}", write_index(entries))

    def _gathered(self, stage: str) -> tuple[dict[str, tuple[Mark, str]], int]:
        known = read_index(self.objects.get(f"receipts/{stage}/{NAME}"))
        return gather(
            marks(self.root / "receipts" / stage),
            known,
            lambda block: self.objects.get(f"receipts/{stage}/{block}.json"),
        )

    def _parse(self, data: bytes, stage: str, block: str) -> Receipt | None:
        """A receipt that cannot be read, or names another block, proves nothing: as if there were none."""
        try:
            receipt = Receipt.model_validate_json(data)
        except ValueError:
            return None
        return receipt if (receipt.stage, receipt.block) == (stage, block) else None

    def intact(self, receipt: Receipt) -> bool:
        """Whether every file that the receipt names is there with its size (contents are not read)."""
        group = f"{self.root}/{receipt.group}/"
        try:
            return all(os.stat(group + name).st_size == record.size for name, record in receipt.files.items())
        except OSError:
            return False

    # -- arrays -----------------------------------------------------------------------------------

    def read(self, receipt: Receipt, name: str) -> np.ndarray:
        """One array of a block, whole. Raises StoreError where files are missing or damaged."""
        self._require(receipt, name)
        try:
            value = read_array(self.root / receipt.group, name)
        except Exception as error:  # whatever a codec raises on damaged bytes
            raise StoreError(self._damaged(receipt, name, str(error))) from error
        if value.shape != receipt.arrays[name].shape:
            raise StoreError(self._damaged(receipt, name, f"shape {value.shape}"))
        return value

    def read_image(self, receipt: Receipt, name: str, row: int, *part: int | slice) -> np.ndarray:
        """One image's part of an array, without its leading axis; reads no other image's chunks.

        part: indices of the axes behind the first, where only a part of the image is wanted.
        """
        self._require(receipt, name)
        try:
            return np.asarray(open_array(self.root / receipt.group, name)[(row, *part)])
        except Exception as error:  # whatever a codec raises on damaged bytes
            raise StoreError(self._damaged(receipt, name, str(error))) from error

    def _require(self, receipt: Receipt, name: str) -> None:
        if name not in receipt.arrays:
            raise StoreError(f"stage {receipt.stage!r}, block {receipt.block}: wrote no array {name!r}")
        if name in receipt.dropped:
            raise StoreError(
                f"stage {receipt.stage!r}, block {receipt.block}: {name!r} is not kept (config: keep)"
            )
        if not self.intact(receipt):
            raise StoreError(self._damaged(receipt, name, "a file is missing or has another size"))

    def _damaged(self, receipt: Receipt, name: str, why: str) -> str:
        path = f"receipts/{receipt.stage}/{receipt.block}.json"
        return (
            f"{receipt.group}/{name} is damaged ({why}); delete {self.root / path} "
            "and run again: the block is made anew"
        )

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
        key = f"arrays/{stage}/{block}/{fingerprint}.zarr"
        final, partial = self.root / key, self.root / f"{key}{PARTIAL}"
        for left in (partial, final):  # a crash's garbage, or a group that lost a file and is made anew
            self.objects.delete(left.relative_to(self.root).as_posix())
        partial.parent.mkdir(parents=True, exist_ok=True)
        digests = write_kept(partial, specs, values, attributes, dropped)
        sizes = fsync_tree(partial)
        files = {
            name: FileRecord(size=size, sha256=file_digest(partial / name)) for name, size in sizes.items()
        }
        partial.rename(final)
        fsync_folder(final.parent)
        arrays = {
            name: ArrayRecord(
                digest=digest, shape=np.shape(values[name]), dtype=str(np.asarray(values[name]).dtype)
            )
            for name, digest in digests.items()
        }
        receipt = Receipt(
            stage=stage,
            block=block,
            fingerprint=fingerprint,
            reasons=dict(reasons),
            group=key,
            arrays=arrays,
            files=files,
            dropped=tuple(dropped),
            failed=dict(failed),
            seconds=round(seconds, 3),
            images=len(next(iter(values.values()))),
            made=now(),
        )
        self._keep_previous(stage, block)
        self.objects.put(f"receipts/{stage}/{block}.json", receipt.model_dump_json(indent=1).encode())
        self.objects.delete(f"receipts/{stage}/{block}.failed.json")
        return receipt

    def _keep_previous(self, stage: str, block: str) -> None:
        before = self.objects.get(f"receipts/{stage}/{block}.json")
        if before is not None:
            self.objects.put(f"receipts/{stage}/{block}.prev.json", before)

    def drop(self, receipt: Receipt, name: str) -> Receipt:
        """Remove an array that the config does not keep; the receipt says so, first. Returns it."""
        files = {path: record for path, record in receipt.files.items() if not path.startswith(f"{name}/")}
        gone = receipt.model_copy(update={"files": files, "dropped": (*receipt.dropped, name)})
        key = f"receipts/{receipt.stage}/{receipt.block}.json"
        self.objects.put(key, gone.model_dump_json(indent=1).encode())
        self.objects.delete(f"{receipt.group}/{name}")
        return gone

    # -- failures ---------------------------------------------------------------------------------

    def record_failure(self, stage: str, block: str, error: str) -> None:
        """Note that a stage failed on a block; the note goes when it succeeds."""
        failure = Failure(stage=stage, block=block, error=error, made=now())
        self.objects.put(f"receipts/{stage}/{block}.failed.json", failure.model_dump_json(indent=1).encode())

    def failures(self, stage: str) -> dict[str, Failure]:
        """Blocks on which a stage failed last time."""
        found = {}
        for key in self.objects.list(f"receipts/{stage}", ".failed.json"):
            data = self.objects.get(key)
            if data is not None:
                failure = Failure.model_validate_json(data)
                found[failure.block] = failure
        return found

    # -- small documents --------------------------------------------------------------------------

    def read_json(self, key: str) -> Any:
        """A JSON document, or None where there is none."""
        data = self.objects.get(key)
        return None if data is None else json.loads(data)

    def write_json(self, key: str, value: Any) -> None:
        """Replace a JSON document wholly."""
        self.objects.put(key, json.dumps(value, indent=1, ensure_ascii=False).encode())

    # -- classes ----------------------------------------------------------------------------------

    def classes(self) -> list[str]:
        """Names of the defect classes; class k of a label map is the k-th, from 1."""
        found: list[str] = self.read_json("classes.json") or []
        return found

    def add_classes(self, names: Iterable[str]) -> list[str]:
        """Append the classes that are new, in the order given; indices once given stay."""
        known = self.classes()
        merged = known + [name for name in dict.fromkeys(names) if name not in known]
        if len(merged) > 254:
            raise StoreError(
                f"{len(merged)} classes; a label map has room for 254 (0 is background, 255 unknown)"
            )
        if merged != known:
            self.write_json("classes.json", merged)
        return merged
