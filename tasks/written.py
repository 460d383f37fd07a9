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

    path: relative to the folder; store: whose export it was; image: the one that it belongs to, empty where it is of the set
    as a whole; pixels: whether it holds the image itself rather than something about it; content: its sha256, or where it
    links to.
    """

    path: str
    store: str
    image: str
    pixels: bool
    content: str


class Account:
    """Notes the files of one export, each once it is there: a killed export has noted what it wrote."""

    def __init__(self, out: Path, store: str, log: TextIO) -> None:
        """out: the folder; store: as of `File`; log: `NAME` in it, open to append to."""
        self.out, self.store, self.image = out, store, ""
        """image: whose files are being written."""
        self.files: dict[str, File] = {}
        self._log = log

    def take(self, path: Path, *, pixels: bool) -> None:
        """Note a file that was just written."""
        name = path.relative_to(self.out).as_posix()
        self.files[name] = File(name, self.store, self.image, pixels, content_of(path))
        self._log.write(json.dumps(asdict(self.files[name]), ensure_ascii=False) + "\n")
        self._log.flush()


_ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)
"""Who notes what is written; beside the arguments of what writes, as the files do not depend on it."""


@contextmanager
def accounted(out: Path, store: str) -> Iterator[Account]:
    """Have every file that is written meanwhile, in this thread, noted in `out`, which is there."""
    with (out / NAME).open("a", encoding="utf-8") as log:
        account = Account(out, store, log)
        before = _ACCOUNT.set(account)
        try:
            yield account
        finally:
            _ACCOUNT.reset(before)


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
        for line in (out / NAME).read_text(encoding="utf-8").splitlines():
            try:
                file = File(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[file.path] = file
    return found


def keep_known(out: Path, files: Mapping[str, File]) -> None:
    """Replace what is known of a folder's files, whole or not at all."""
    partial = out / f"{NAME}.partial"
    lines = (json.dumps(asdict(file), ensure_ascii=False) + "\n" for file in files.values())
    partial.write_text("".join(lines), encoding="utf-8")
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
