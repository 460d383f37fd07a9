"""The few verbs through which every byte of the store goes, on a local or shared folder."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from zarr.abc.store import Store as ZarrStore
from zarr.storage import LocalStore

from storage.index import Mark, marks

PARTIAL = ".partial"
"""Ending of what is being written; whatever bears it after a crash is garbage."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where no more fits."""
REFUSED = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors after which no other write will go better."""
SPARE = 1 << 16
"""Bytes that are left free: receipts and the catalog have to fit too."""

Tag = str | None
"""Which version of an object one has seen; None where it was not there."""


class StoreUnwritableError(RuntimeError):
    """Nothing more can be written to the store; the run has to end. What was committed stays."""


class Objects(Protocol):
    """Bytes by key, in a folder or in an object store: all that the store needs of either."""

    def get(self, key: str) -> bytes | None:
        """Bytes of an object, or None where there is none."""

    def tagged(self, key: str) -> tuple[bytes | None, Tag]:
        """Bytes of an object and which version of it they are."""

    def put(self, key: str, value: bytes) -> None:
        """Replace an object wholly or not at all; durable on return."""

    def swap(self, key: str, value: bytes, seen: Tag) -> bool:
        """Replace an object only if it is still the version seen; False where it is another."""

    def create(self, key: str, value: bytes) -> bool:
        """Make an object only where there is none; False where there is one."""

    def list(self, prefix: str, suffix: str = "") -> Iterator[str]:
        """Keys, and folders of keys, directly below `prefix` that end in `suffix`, sorted."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below `prefix`, by its key relative to that."""

    def holds(self, prefix: str, wanted: Mapping[str, int]) -> bool:
        """Whether all these objects are below `prefix`, each with so many bytes."""

    def marks(self, prefix: str) -> dict[str, Mark]:
        """Size and time of change of each block's receipt in a stage's folder."""

    def delete(self, key: str) -> None:
        """Remove an object, or all below it; nothing happens where there is none."""

    def write_tree(self, name: str, ending: str, files: Mapping[str, Any]) -> str:
        """Write some files under a new folder `name` + `ending`, durable on return; gives the key that it got."""

    def zarr(self, key: str) -> ZarrStore:
        """A folder for Zarr, to read."""

    def sweep(self) -> int:
        """Remove what a crash left half written; returns how many. Only the lock's holder may."""


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename alone may be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LocalObjects:
    """Objects in one folder, named by relative posix paths."""

    def __init__(self, root: Path) -> None:
        """root: the folder; made with the first object."""
        self.root = root

    def path(self, key: str) -> Path:
        """Where an object lies."""
        return self.root / key

    def get(self, key: str) -> bytes | None:
        """Bytes of an object, or None where there is none."""
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def tagged(self, key: str) -> tuple[bytes | None, Tag]:
        """Bytes of an object; a folder needs no versions, as its lock outlives no holder."""
        value = self.get(key)
        return value, None if value is None else ""

    def put(self, key: str, value: bytes) -> None:
        """Replace an object wholly or not at all; durable on return."""
        target = self.path(key)
        partial = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
        with self._told(key, len(value)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _removed_on_error(partial):
                _write(partial, value)
                partial.rename(target)
            fsync_folder(target.parent)

    def swap(self, key: str, value: bytes, seen: Tag) -> bool:
        """Replace an object: in a folder the writer's lock is enough."""
        self.put(key, value)
        return True

    def create(self, key: str, value: bytes) -> bool:
        """Make an object only where there is none; False where there is one."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(target, value, mode="xb")
        except FileExistsError:
            return False
        fsync_folder(target.parent)
        return True

    def list(self, prefix: str, suffix: str = "") -> Iterator[str]:
        """Keys, and folders of keys, directly below `prefix` that end in `suffix`, sorted."""
        folder = self.path(prefix)
        if not folder.is_dir():
            return
        for name in sorted(os.listdir(folder)):
            if name.endswith(suffix) and not name.endswith(PARTIAL):
                yield f"{prefix}/{name}" if prefix else name

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below `prefix`, by its key relative to that."""
        found = {}
        top = str(self.path(prefix))
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                found[os.path.relpath(path, top).replace(os.sep, "/")] = os.lstat(path).st_size
        return found

    def holds(self, prefix: str, wanted: Mapping[str, int]) -> bool:
        """Whether all these objects are below `prefix`, each with so many bytes."""
        folder = f"{self.root}/{prefix}/"
        try:
            return all(os.stat(folder + name).st_size == size for name, size in wanted.items())
        except OSError:
            return False

    def marks(self, prefix: str) -> dict[str, Mark]:
        """Size and time of change of each block's receipt in a stage's folder."""
        return marks(self.path(prefix))

    def delete(self, key: str) -> None:
        """Remove an object, or a folder of them; nothing happens where there is none."""
        target = self.path(key)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def write_tree(self, name: str, ending: str, files: Mapping[str, Any]) -> str:
        """Write some files under a new folder, renamed in once all of it is durable; gives its key.

        Raises StoreUnwritableError with the space needed where it does not fit.
        """
        mark = secrets.token_hex(4)
        partial = self.path(f"{name}-{mark}{ending}{PARTIAL}")
        with self._told(f"{name}{ending}", sum(len(data) for data in files.values())):
            with _removed_on_error(partial):
                for relative, data in files.items():
                    path = partial / relative
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _write(path, data)
                for folder, _, _ in os.walk(partial):
                    fsync_folder(Path(folder))
                # a group is never changed: one that lost a file stays as it is, and the new one gets another name
                key = f"{name}-{mark}{ending}" if self.path(f"{name}{ending}").exists() else f"{name}{ending}"
                partial.rename(self.path(key))
            fsync_folder(partial.parent)
        return key

    def zarr(self, key: str) -> ZarrStore:
        """A folder for Zarr, to read."""
        return LocalStore(self.path(key), read_only=True)

    def sweep(self) -> int:
        """Remove what a crash left half written; returns how many. Only the lock's holder may."""
        left = sorted(self.root.rglob(f"*{PARTIAL}"))
        for path in left:
            self.delete(path.relative_to(self.root).as_posix())
        return len(left)

    @contextmanager
    def _told(self, key: str, size: int) -> Iterator[None]:
        """Say in words why nothing can be written: how much is needed, how much there is."""
        try:
            if size > SPARE and (free := self._free()) is not None and free < size + SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            raise StoreUnwritableError(self._sentence(key, size, error)) from error

    def _sentence(self, key: str, size: int, error: OSError) -> str:
        if error.errno in FULL:
            free = self._free() or 0
            return (
                f"no space left for {self.root}: {key} needs {_megabytes(size + SPARE)}, {_megabytes(free)} are free; "
                f"free some (`bluemask prune {self.root}` may help), then run the same command again"
            )
        return (
            f"{self.root}: {key} cannot be written ({error.strerror}); give this user the right to write there, "
            "then run the same command again"
        )

    def _free(self) -> int | None:
        """Bytes that are left on the disk, for this user; None where that cannot be told."""
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            left = os.statvfs(place)
        except OSError:
            return None
        return left.f_bavail * left.f_frsize


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


@contextmanager
def _removed_on_error(partial: Path) -> Iterator[None]:
    """A write that failed gives its space back at once."""
    try:
        yield
    except OSError:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(OSError):  # a read-only disk keeps it; the next sweep takes it
                partial.unlink(missing_ok=True)
        raise


def _write(path: Path, value: Any, mode: str = "wb") -> None:
    with path.open(mode) as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
