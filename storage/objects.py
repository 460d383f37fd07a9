"""The five verbs through which every small file of the store goes: get, put, create, list, delete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
"""Ending of what is being written; whatever bears it after a crash is garbage."""


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename alone may be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(root: Path) -> dict[str, int]:
    """Flush every file and folder below `root`; returns sizes in bytes by relative posix path."""
    sizes = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sizes[path.relative_to(root).as_posix()] = path.stat().st_size
        fsync_folder(Path(folder))
    return sizes


class LocalObjects:
    """Objects in one folder, named by relative posix paths."""

    def __init__(self, root: Path) -> None:
        """root: the folder; made where it is missing."""
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where an object lies."""
        return self.root / key

    def get(self, key: str) -> bytes | None:
        """Bytes of an object, or None where there is none."""
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, value: bytes) -> None:
        """Replace an object wholly or not at all; durable on return."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")
        self._write(partial, value, exclusive=False)
        partial.rename(target)
        fsync_folder(target.parent)

    def create(self, key: str, value: bytes) -> bool:
        """Make an object only where there is none; False where there is one."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._write(target, value, exclusive=True)
        except FileExistsError:
            return False
        fsync_folder(target.parent)
        return True

    def list(self, prefix: str, suffix: str = "") -> Iterator[str]:
        """Keys directly below the folder `prefix` that end in `suffix`, sorted."""
        folder = self.path(prefix)
        if not folder.is_dir():
            return
        for name in sorted(os.listdir(folder)):
            if name.endswith(suffix) and not name.endswith(PARTIAL):
                yield f"{prefix}/{name}"

    def delete(self, key: str) -> None:
        """Remove an object, or a folder of them; nothing happens where there is none."""
        target = self.path(key)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what a crash left half written; returns how many. Only the lock's holder may."""
        left = sorted(self.root.rglob(f"*{PARTIAL}"))
        for path in left:
            self.delete(path.relative_to(self.root).as_posix())
        return len(left)

    @staticmethod
    def _write(path: Path, value: bytes, *, exclusive: bool) -> None:
        with path.open("xb" if exclusive else "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
