"""The receipts of a stage gathered in one file, so that planning reads one object for thousands.

It is a cache and proves nothing: every entry names the size and time of the receipt that it was taken from, and counts
only while that receipt is still the same. A lost or damaged index costs a slower plan, nothing else.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

Mark = tuple[int, int]
"""Size in bytes and time of change in ns of a receipt's file."""
NAME = "index.json.z"
Parse = Callable[[bytes, str], object | None]


def marks(folder: Path) -> dict[str, Mark]:
    """Marks of the receipts in a stage's folder, by block; without failures and earlier versions."""
    found: dict[str, Mark] = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                block, dot, rest = entry.name.partition(".")
                if (dot, rest) == (".", "json"):
                    stat = entry.stat()
                    found[block] = (stat.st_size, stat.st_mtime_ns)
    return dict(sorted(found.items()))


def read_index(data: bytes | None) -> dict[str, tuple[Mark, str]]:
    """Marks and texts of an index by block; empty where there is none, or it is damaged."""
    if data is None:
        return {}
    try:
        entries: dict[str, tuple[int, int, str]] = json.loads(zlib.decompress(data))
        return {block: ((size, changed), text) for block, (size, changed, text) in entries.items()}
    except (ValueError, TypeError, zlib.error):
        return {}


def write_index(entries: Mapping[str, tuple[Mark, str]]) -> bytes:
    """What `read_index` reads; zlib's own checksum tells of damage."""
    plain = {block: (*mark, text) for block, (mark, text) in entries.items()}
    return zlib.compress(json.dumps(plain).encode(), 1)


def gather(
    present: Mapping[str, Mark], known: Mapping[str, tuple[Mark, str]], fetch: Callable[[str], bytes | None]
) -> tuple[dict[str, tuple[Mark, str]], int]:
    """The text of every receipt, from the index where that is up to date, else from its own file.

    present: marks of the receipts as they are; known: the index; fetch: reads a block's receipt.
    Returns the entries of a new index, and how many of them, or of those gone, differ from the old.
    """
    entries: dict[str, tuple[Mark, str]] = {}
    changed = len(known.keys() - present.keys())
    for block, mark in present.items():
        entry = known.get(block)
        if entry is None or entry[0] != mark:
            changed += 1
            data = fetch(block)
            if data is None:
                continue
            entry = (mark, data.decode("utf-8", "replace"))
        entries[block] = entry
    return entries, changed
