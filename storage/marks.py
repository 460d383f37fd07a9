"""What the user marked in an image: index PNGs by the images' paths, or points in a CSV."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from storage.pixels import read_label_map
from storage.sources import SourceError, listed, rows_of

UNMARKED = 255
"""Code of a pixel of which the user has said nothing."""
FEW = 2000
"""Images among whose paths one that is like a mistyped one is looked for: a matter of a tenth of a second."""
BACKGROUND = "background"
"""What a point that shows no defect is called, code 0."""


class AnnotationIndex:
    """What the user marked: index PNGs by the images' paths, or points in a CSV."""

    def __init__(self, folder: Path, annotations: Path | None, points: Path | None) -> None:
        """folder: the image folder; annotations: folder of index PNGs, named as the images but for the ending.

        points: CSV `image,x,y,label`, its paths relative to the image folder. Raises SourceError where either
        cannot be read.
        """
        self.folder, self.annotations = folder, annotations
        if annotations is not None and not annotations.is_dir():
            raise SourceError(f"data.annotations: {annotations} is no folder that can be read")
        self.points: dict[str, list[tuple[int, str, str, str]]] = {}
        for line, row in _rows(points) if points else ():
            mark = (line, row["x"], row["y"], row["label"])
            self.points.setdefault(PurePosixPath(row["image"].replace("\\", "/")).as_posix(), []).append(mark)
        self.name = points.name if points else ""

    def stray(self, images: Collection[str]) -> list[str]:
        """Marks that belong to no image, a sentence each. images: paths relative to the image folder."""
        known = set(images)
        found = []
        if lost := [image for image in self.points if image not in known]:
            first = f"{self.name}, line {self.points[lost[0]][0][0]}: no image of {self.folder} has the path {lost[0]!r}"
            close = difflib.get_close_matches(lost[0], known, n=1) if len(known) <= FEW else []
            hint = f"; did you mean {close[0]!r}?" if close else ""
            more = f", nor {len(lost) - 1} more in that file" if len(lost) > 1 else ""
            found.append(f"{first}{more}{hint}")
        if self.annotations is not None:
            wanted = {PurePosixPath(image).with_suffix(".png").as_posix() for image in images}
            there = sorted(
                path.relative_to(self.annotations).as_posix() for path in self.annotations.rglob("*.png")
            )
            if lone := [name for name in there if name not in wanted]:
                found.append(
                    listed(lone, f"in {self.annotations}, but no image of {self.folder} has that path")
                )
        return found

    def digest(self, image: str) -> str:
        """Sha256 of what is marked in an image; empty where nothing is."""
        parts = []
        png = self._png(image)
        if png is not None:
            try:
                parts.append(png.read_bytes())
            except OSError:  # `label_map` says why
                parts.append(b"unreadable")
        if image in self.points:
            parts.append(repr([mark[1:] for mark in self.points[image]]).encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else ""

    def _png(self, image: str) -> Path | None:
        path = None if self.annotations is None else (self.annotations / image).with_suffix(".png")
        if path is None or self.annotations is None or not path.is_file():
            return None
        if not path.resolve().is_relative_to(self.annotations.resolve()):
            raise SourceError(f"{path} is a link out of {self.annotations}; put the file itself there")
        return path

    def label_map(
        self, image: str, shape: tuple[int, int], classes: Sequence[str], labels: Collection[str]
    ) -> np.ndarray:
        """(y, x) uint8 of the given height and width: k a class, 0 background, 255 unmarked.

        classes: all names, the k-th from 1 has code k; labels: those of them that the image shows.
        Points are single pixels in the frame of the image after EXIF rotation, (0, 0) the one at the top left.
        Raises SourceError where a mark does not fit the image, or is of no class that the image shows.
        """
        png = self._png(image)
        marks = np.full(shape, UNMARKED, np.uint8) if png is None else read_label_map(png)
        if marks.shape != shape:
            raise SourceError(
                f"{png}: {marks.shape[1]} × {marks.shape[0]} pixels, its image {shape[1]} × {shape[0]}"
            )
        known = {*range(len(classes) + 1), UNMARKED}
        codes = set(np.unique(marks).tolist())
        if strange := sorted(codes - known):
            raise SourceError(f"{png}: value {strange[0]}; expected 0 to {len(classes)}, or 255 for unmarked")
        for code in sorted(codes - {0, UNMARKED}):
            _refuse_absent(str(png), classes[code - 1], labels)
        for mark in self.points.get(image, []):
            self._paint(marks, mark, image, classes, labels)
        return marks

    def _paint(
        self,
        marks: np.ndarray,
        mark: tuple[int, str, str, str],
        image: str,
        classes: Sequence[str],
        labels: Collection[str],
    ) -> None:
        line, x, y, label = mark
        where = f"{self.name}, line {line}: {image}"
        try:
            column, row = round(float(x)), round(float(y))
        except (ValueError, OverflowError) as error:
            raise SourceError(f"{where}: x = {x!r}, y = {y!r}; expected pixels") from error
        if not (0 <= row < marks.shape[0] and 0 <= column < marks.shape[1]):
            raise SourceError(
                f"{where}: ({x}, {y}) lies outside its {marks.shape[1]} × {marks.shape[0]} pixels"
            )
        names = [BACKGROUND, *classes]
        if label not in names:
            close = difflib.get_close_matches(label, names, n=1)
            hint = f"did you mean {close[0]!r}? Expected" if close else "expected"
            raise SourceError(f"{where}: label {label!r}; {hint} {', '.join(names)}")
        if label != BACKGROUND:
            _refuse_absent(where, label, labels)
        code = names.index(label)
        if marks[row, column] not in (UNMARKED, code):
            other = names[marks[row, column]]
            raise SourceError(f"{where}: ({x}, {y}) is marked as {other!r} already; keep one of the two")
        marks[row, column] = code


def _rows(points: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        yield from rows_of(points, ("image", "x", "y", "label"))
    except SourceError as error:
        raise SourceError(f"data.points: {error}") from error


def _refuse_absent(where: str, name: str, labels: Collection[str]) -> None:
    """A mark of a class that the image's own label denies: one of the two is wrong."""
    if name not in labels:
        shown = f"has the label {', '.join(labels)}" if labels else "is labelled as having no defect"
        raise SourceError(f"{where}: {name!r} is marked, but the image {shown}; correct one of the two")
