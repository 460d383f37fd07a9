"""The user's folder as a list of images with labels: a folder per class, or a labels.csv."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.pixels import SUFFIXES

LABELS = "labels.csv"
"""A CSV of this name in the image folder is taken for its labels."""
CLASSES = "classes.txt"
"""A list of this name, in the image folder or beside it, gives the order of the classes: line k is class k."""
IGNORED = frozenset({"thumbs.db", "desktop.ini", LABELS, CLASSES})
"""Files that are no images and need no word, in lower case."""
LISTED = 3
"""Most names that one problem spells out."""


class SourceError(ValueError):
    """The image folder, its labels or its annotations cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """One image file, as the user names it."""

    path: str
    """Relative to the image folder, posix."""
    labels: tuple[str, ...]
    """Names of its defect classes, sorted; empty for an image without a defect."""


@dataclass
class Scan:
    """What a look at the names in an image folder gave; nothing was decoded."""

    sources: list[Source] = field(default_factory=list)
    """Every labelled image, in the order of paths."""
    classes: list[str] = field(default_factory=list)
    """Names of the defect classes; class k of a label map is the k-th, from 1."""
    problems: list[str] = field(default_factory=list)
    """What was passed over, and why, a sentence each."""
    unlisted: list[str] = field(default_factory=list)
    """Folders, relative and with a slash at the end, that could not be listed: what is in them is not known."""


def scan(folder: Path, labels: Path | None, normal: Collection[str]) -> Scan:
    """List every image below `folder` with its labels, in the order of paths.

    labels: a CSV `image,labels`, paths relative to it; None takes folder/labels.csv where there is one, else a
    folder per class. normal: names that mean "no defect", in any case.
    Classes are in the order of a classes.txt in the folder or beside it, else sorted.
    Raises SourceError where the folder cannot be read, holds no image, or the CSV is wrong.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder} is no folder that can be read; mount it, or correct the path (in a config: data.folder)"
        )
    _entries(folder, "", Scan())  # raises where it cannot be listed
    table = labels or (folder / LABELS if (folder / LABELS).is_file() else None)
    quiet = {name.casefold() for name in normal}
    found = _from_csv(folder, table, quiet) if table else _from_folders(folder, quiet)
    if not found.sources:
        wanted = "a folder per class with images in it, or a labels.csv `image,labels`"
        passed = "".join(f"; {problem}" for problem in found.problems[:LISTED])
        raise SourceError(
            f"{folder} holds no labelled image ({', '.join(sorted(SUFFIXES))}); expected {wanted}{passed}"
        )
    found.sources.sort(key=lambda source: source.path)
    found.classes = _ordered(folder, sorted({n for s in found.sources for n in s.labels}), quiet, found)
    _note_alike(found)
    return found


def _ordered(folder: Path, names: list[str], normal: set[str], found: Scan) -> list[str]:
    """Classes in the order of a classes.txt, which may name some that no image shows yet."""
    for path in (folder / CLASSES, folder.resolve().parent / CLASSES):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        names_there = [line.strip() for line in text.splitlines() if line.strip()]
        quiet = [name for name in names_there if name.casefold() in normal]
        fault = (
            listed(missing, "is missing in it")
            if (missing := [n for n in names if n not in names_there])
            else ""
        )
        if quiet:
            fault = f"{quiet[0]!r} means no defect, which is code 0 and needs no line"
        elif len(set(names_there)) < len(names_there):
            fault = "a name stands in it twice"
        if not fault:
            return names_there
        found.problems.append(f"{path} does not give the order of the classes, which is by name: {fault}")
    return names


def listed(names: list[str], what: str) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(map(repr, names[:LISTED]))}{more} {what}"


def _note_alike(found: Scan) -> None:
    alike = Counter(name.casefold() for name in found.classes)
    for name, count in alike.items():
        if count > 1:
            same = [item for item in found.classes if item.casefold() == name]
            found.problems.append(
                f"classes {', '.join(map(repr, same))} differ only by case; rename if they are one"
            )


def _walk(root: Path, found: Scan) -> Iterator[str]:
    """Paths of image files below `root`, relative to it, posix; what is passed over is noted."""
    skipped: Counter[str] = Counter()
    folders, inside = [""], os.path.realpath(root)
    while folders:
        relative = folders.pop()
        for entry in _entries(root, relative, found):
            path = f"{relative}{entry.name}"
            if entry.name.startswith(".") or entry.name.casefold() in IGNORED:
                continue
            if fault := _fault(entry, inside):
                found.problems.append(f"{ascii(path)[1:-1] if 'UTF-8' in fault else path} {fault}")
            elif entry.is_dir():
                folders.append(f"{path}/")
            elif (suffix := os.path.splitext(entry.name)[1]).casefold() in SUFFIXES:
                yield path
            else:
                skipped[suffix or entry.name] += 1
    for suffix, count in sorted(skipped.items()):
        found.problems.append(
            f"{count} file{'s' if count > 1 else ''} {suffix!r} in {root}: no image format that is read"
        )


def _entries(root: Path, relative: str, found: Scan) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / relative) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not relative:
            raise SourceError(
                f"{root} cannot be listed ({error.strerror}); mount it, or give this user the right to read it"
            ) from error
        found.unlisted.append(relative)
        found.problems.append(
            f"{root / relative} cannot be listed ({error.strerror}); what is known of its images stays as it is"
        )
        return []


def _fault(entry: os.DirEntry[str], inside: str) -> str:
    """Why something in a folder is passed over; empty where it is a plain file or folder."""
    try:
        entry.name.encode("utf-8")
        entry.is_dir()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8 and was left out; rename it"
    except OSError as error:
        return f"is a link that leads nowhere ({error.strerror}) and was left out; remove it"
    if entry.is_symlink():
        if entry.is_dir():
            return "is a link to a folder and was not followed; put the folder itself there"
        if not os.path.realpath(entry.path).startswith(inside.rstrip(os.sep) + os.sep):
            return "is a link out of the image folder and was refused; put the file itself there"
        if not entry.is_file():
            return "is a link to nothing and was left out"
    return "" if entry.is_file() or entry.is_dir() else "is no plain file and was left out"


def _from_folders(folder: Path, normal: set[str]) -> Scan:
    found, loose = Scan(), list[str]()
    for path in _walk(folder, found):
        name, slash, _ = path.partition("/")
        if not slash:
            loose.append(path)
        else:
            found.sources.append(Source(path, () if name.casefold() in normal else (name,)))
    if loose:
        what = f"in no class folder of {folder}, left out: move to one, or write a {LABELS}"
        found.problems.append(listed(sorted(loose), what))
    _note_empty(folder, normal, found)
    return found


def _note_empty(folder: Path, normal: set[str], found: Scan) -> None:
    """Folders without an image, which would pass for a class or for good surfaces: one may not have been filled yet."""
    filled = {source.path.partition("/")[0] for source in found.sources}
    filled |= {path.partition("/")[0] for path in found.unlisted}  # what is in those is not known
    names = [
        entry.name
        for entry in _entries(folder, "", Scan())
        if not entry.name.startswith(".")
        and entry.name not in filled
        and not _fault(entry, os.path.realpath(folder))
        and entry.is_dir()
    ]
    good = [name for name in names if name.casefold() in normal]
    for some, means in (
        ([name for name in names if name not in good], "so that no image is of this class"),
        (good, "so that it shows no surface without a defect"),
    ):
        if some:
            what = f"in {folder} without an image, {means}: put some there, or remove the folder"
            found.problems.append(listed(some, what))


def _from_csv(folder: Path, table: Path, normal: set[str]) -> Scan:
    found, seen, missing = Scan(), dict[str, tuple[int, tuple[str, ...]]](), list[str]()
    there = set(_walk(folder, found))
    below = _Below(folder, table, there)
    for line, row in rows_of(table, ("image", "labels")):
        where = f"{table.name}, line {line}: image {row['image']!r}"
        path, labels = below.relative(row["image"], where), _labels(row["labels"], normal, where)
        if seen.setdefault(path, (line, labels))[1] != labels:
            raise SourceError(
                f"{where} stands in line {seen[path][0]} with other labels; keep one of the two lines"
            )
        if seen[path][0] != line:
            found.problems.append(f"{where} stands in line {seen[path][0]} already")
        elif path in there or os.path.isfile(folder / path):
            found.sources.append(Source(path, labels))
        else:
            missing.append(f"line {line}: {row['image']}")
    if missing:
        what = f"named in {table.name} but not there, left out: add the file or remove the line"
        found.problems.append(listed(missing, what))
    if unlisted := sorted(there.difference(seen)):
        found.problems.append(listed(unlisted, f"not named in {table.name}, left out"))
    return found


def _labels(text: str, normal: set[str], where: str) -> tuple[str, ...]:
    """Names of classes from a CSV field, sorted; empty for an image without a defect."""
    names = {name.strip() for name in text.split(";")} - {""}
    classes = sorted(name for name in names if name.casefold() not in normal)
    if classes and len(classes) < len(names):
        raise SourceError(f"{where} has labels {text!r}: a defect and none at once; remove one of them")
    return tuple(classes)


class _Below:
    """Paths as a CSV gives them, relative to itself, as paths relative to the image folder."""

    def __init__(self, folder: Path, table: Path, there: Container[str]) -> None:
        """there: the image files that a look at the folder found; those need no second look."""
        self.folder, self.root, self.there = folder, os.path.realpath(folder), there
        self.start = os.path.realpath(table.parent)

    def relative(self, image: str, where: str) -> str:
        """The path, posix. Raises SourceError where it is no image's or leaves the folder, by links too."""
        path = os.path.normpath(os.path.join(self.start, image.replace("\\", "/")))
        inside = path[len(self.root) :].lstrip(os.sep)
        if image and self._holds(path) and inside in self.there:
            return inside
        if not image or not (self._holds(path) and self._holds(os.path.realpath(path))):
            raise SourceError(f"{where} is not below {self.folder}; remove the line or correct the path")
        if os.path.splitext(path)[1].casefold() not in SUFFIXES:
            raise SourceError(f"{where} is no image format that is read ({', '.join(sorted(SUFFIXES))})")
        return inside

    def _holds(self, path: str) -> bool:
        return path.startswith(self.root.rstrip(os.sep) + os.sep)


def rows_of(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV with a header, by column, with their line numbers. Raises SourceError for other columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            if sorted(header) != sorted(columns):
                raise SourceError(
                    f"{path.name}, line 1: columns {', '.join(map(repr, header)) or 'none'}; expected "
                    f"{','.join(columns)}, separated by commas"
                )
            for row in reader:
                if row and len(row) != len(header):
                    raise SourceError(
                        f"{path.name}, line {reader.line_num}: {len(row)} fields, expected {len(header)}: "
                        f"{','.join(columns)} (several labels are separated by ';', a comma in a name needs quotes)"
                    )
                if row:
                    yield reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is not a CSV in UTF-8: {error}") from error
