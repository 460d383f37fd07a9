"""Which files an export wrote: noted as they are written, so that the next one knows what is its own to remove."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

from storage.documents import file_digest

NAME = ".bluemask-files"
"""In an export's folder: a line of JSON a file that was written there; of several lines for one file the last one counts."""


@dataclass(frozen=True)
class File:
    """One file that an export wrote.

    path: relative to the folder; store: whose export it was, by its place; image, sha256: path and content of the image that
    it belongs to, empty where it is of the set as a whole; pixels: whether it holds the image itself rather than something
    about it; content: its own sha256, or where it links to.
    """

    path: str
    store: str
    image: str
    sha256: str
    pixels: bool
    content: str


class Account:
    """Notes the files of one export, each once it is there: a killed export has noted what it wrote."""

    def __init__(self, out: Path, store: str, log: TextIO) -> None:
        """out: the folder; store: as of `File`; log: `NAME` in it, open to append to."""
        self.out, self.store, self.image, self.sha256 = out, store, "", ""
        """image, sha256: whose files are being written, as of `File`."""
        self.files: dict[str, File] = {}
        self._log = log
        self._places: set[tuple[int, int]] | None = None  # once all are written

    def take(self, path: Path, *, pixels: bool) -> None:
        """Note a file that was just written."""
        name = path.relative_to(self.out).as_posix()
        self.files[name] = File(name, self.store, self.image, self.sha256, pixels, content_of(path))
        self._log.write(_line(self.files[name]))
        self._log.flush()

    def is_among(self, path: Path) -> bool:
        """Whether a file is one of those, perhaps by a name that only looks other: some file systems know no case."""
        if not os.path.lexists(path):
            return False
        if self._places is None:
            self._places = {_place(self.out / name) for name in self.files}
        return _place(path) in self._places


_ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)
"""Who notes what is written; beside the arguments of what writes, as the files do not depend on it."""


@contextmanager
def accounted(out: Path, store: str) -> Iterator[Account]:
    """Have every file that is written meanwhile, in this thread, noted in `out`, which is there."""
    with own(out / NAME).open("a", encoding="ascii") as log:
        log.write("\n")  # ends a line that a kill cut off
        account = Account(out, store, log)
        before = _ACCOUNT.set(account)
        try:
            yield account
        finally:
            _ACCOUNT.reset(before)


def own(path: Path) -> Path:
    """A place for an export's own notes: a link that somebody put there goes, what it leads to stays as it is."""
    if path.is_symlink():
        path.unlink()
    return path


def wrote(path: Path, *, pixels: bool = False) -> None:
    """A file of an export is there; pixels: as of `File`. Said by whatever writes one."""
    account = _ACCOUNT.get()
    if account is not None:
        account.take(path, pixels=pixels)


def content_of(path: Path) -> str:
    """Sha256 of a file, or where a symbolic link leads."""
    return f"link to {os.readlink(path)}" if path.is_symlink() else file_digest(path)


def known_files(out: Path) -> dict[str, File]:
    """What exports have written into a folder, by path; a line that a kill cut off says nothing."""
    found = {}
    if (out / NAME).is_file():
        for line in (out / NAME).read_text(encoding="ascii", errors="replace").split("\n"):
            file = _file_of(line)
            if file is not None:
                found[file.path] = file
    return found


def _line(file: File) -> str:
    return json.dumps(asdict(file)) + "\n"


def _file_of(line: str) -> File | None:
    """What a line says; None where it says nothing, or was written by somebody else."""
    try:
        file = File(**json.loads(line))
    except (ValueError, TypeError):
        return None
    words = (file.path, file.store, file.image, file.sha256, file.content)
    return file if all(isinstance(word, str) for word in words) else None


def _place(path: Path) -> tuple[int, int]:
    """Device and number of a file, or of a link itself: the same for all of its names."""
    about = path.lstat()
    return about.st_dev, about.st_ino


def keep_known(out: Path, files: Mapping[str, File]) -> None:
    """Replace what is known of a folder's files, whole or not at all."""
    partial = out / f"{NAME}.partial"
    partial.write_text("".join(map(_line, files.values())), encoding="ascii")
    partial.replace(out / NAME)


def remove(out: Path, file: File) -> Literal["removed", "changed", "gone"]:
    """Remove a file as an export wrote it, and folders that are empty without it; one that somebody changed stays."""
    path = out / file.path
    if not path.parent.resolve().is_relative_to(out.resolve()):
        return "changed"
    if not path.is_symlink() and not path.is_file():
        return "gone"
    if content_of(path) != file.content:
        return "changed"
    path.unlink()
    for folder in path.parents:
        if folder == out or any(folder.iterdir()):
            break
        folder.rmdir()
    return "removed"
