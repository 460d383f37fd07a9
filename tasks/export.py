"""Labels as files: what every format shares, and the plain one, an indexed PNG under the image's own name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from storage.pixels import read_header
from tasks.palette import palette
from tasks.written import wrote

CLASSES = "classes.txt"
UNKNOWN = 255
Images = Literal["copy", "link", "none"]
"""Whether images lie beside their labels: copies, symbolic links, or not at all."""


class ExportError(ValueError):
    """The labels cannot be written as asked; the message says why."""


@dataclass(frozen=True)
class Sample:
    """One image with the label that counts.

    name: its path relative to the image folder; file: where it lies; label: (y, x) uint8 label map; part: of the
    split, such as `train`; arrays: those that the format asks for, by name, in the image's true extent; image: its pixels
    as uint8 (y, x, channel), where the file itself cannot stand beside the label. All is read by then: what is damaged in
    the store costs its image alone.
    """

    name: str
    file: Path
    label: np.ndarray
    part: str
    arrays: Mapping[str, np.ndarray]
    image: np.ndarray | None = None


@dataclass(frozen=True)
class Target:
    """Where and how to write.

    out: the folder; classes: names from index 1; images: see Images; names: of all samples that will come; parts:
    of the split, in order; confident: whether the samples' confidence is that of their labels, and may go with them.
    """

    out: Path
    classes: tuple[str, ...]
    images: Images
    names: tuple[str, ...]
    parts: tuple[str, ...]
    confident: bool = True


@dataclass(frozen=True)
class Format:
    """One way to write labels.

    name: as `--format` has it; summary: a line for people; write: takes the samples, one at a time, and returns
    sentences to tell the user; images: what it does about images where the user does not say; arrays: what it reads of a
    store beside the label; pictures: kinds of image files that it takes as they are.
    """

    name: str
    summary: str
    write: Callable[[Iterable[Sample], Target], list[str]]
    images: Images = "copy"
    arrays: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ("PNG", "JPEG", "BMP", "TIFF")

    def takes(self, file: Path) -> bool:
        """Whether an image's file may lie beside its label as it is: of a kind that is taken, and shown upright.

        One that is shown turned (EXIF) is written anew, or tools that know no EXIF would lay its label across it.
        """
        header = read_header(file)
        with Image.open(file) as image:
            return header.format in self.pictures and image.getexif().get(0x0112, 1) == 1


# -- names ------------------------------------------------------------------------------------------------


def label_path(out: Path, images: Sequence[str], suffix: str = ".png") -> dict[str, Path]:
    """Where each image's label goes: its own folder and name with another ending.

    images: paths relative to the image folder. Raises ExportError where two would get the same file.
    """
    targets = {image: out / PurePosixPath(image).with_suffix(suffix) for image in images}
    _refuse_twins(targets)
    return targets


def flat_names(images: Sequence[str]) -> dict[str, str]:
    """A name without folder and ending for each image, for formats that know no folders: a/b.png is a__b.

    Raises ExportError where two would get the same.
    """
    names = {image: "__".join(PurePosixPath(image).with_suffix("").parts) for image in images}
    _refuse_twins(names)
    return names


def _refuse_twins(targets: Mapping[str, object]) -> None:
    taken: dict[object, str] = {}
    for image, target in targets.items():
        if target in taken:
            raise ExportError(f"{taken[target]} and {image} would both become {target}; rename one of them")
        taken[target] = image


# -- files ------------------------------------------------------------------------------------------------


def _save(image: Image.Image, path: Path, *, pixels: bool = False, **how: Any) -> None:
    """Write a picture whole or not at all; pixels: as of `written.File`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    image.save(partial, **how)
    partial.replace(path)
    wrote(path, pixels=pixels)


def label_png(label: np.ndarray, path: Path) -> None:
    """Write a label map as an indexed PNG, whole or not at all.

    label: (y, x) uint8, 0 background, k a class, 255 unknown.
    """
    image = Image.fromarray(np.ascontiguousarray(label))
    image.putpalette(palette())
    _save(image, path, format="PNG")


def grey_png(label: np.ndarray, path: Path) -> None:
    """Write a map as a grey PNG without a palette, which some loaders would turn into colours.

    label: (y, x) uint8, or uint16 for 16 bits.
    """
    _save(Image.fromarray(np.ascontiguousarray(label)), path, format="PNG")


def jpeg(sample: Sample, path: Path) -> None:
    """Write an image as JPEG, for loaders that know nothing else: a JPEG as it is, the rest at quality 95."""
    if sample.image is None:
        _place(sample.file, path)
    else:
        _save(Image.fromarray(sample.image), path, pixels=True, format="JPEG", quality=95, subsampling=0)


def place_image(sample: Sample, path: Path, images: Images) -> Path:
    """Put an image beside its label, and return where it is.

    path: without the image's ending.
    """
    if images == "none":
        return sample.file
    if sample.image is not None:
        target = path.with_name(path.name + ".png")
        _save(Image.fromarray(sample.image), target, pixels=True, format="PNG")
        return target
    target = path.with_name(path.name + sample.file.suffix)
    _place(sample.file, target, link=images == "link")
    return target


def _place(file: Path, target: Path, *, link: bool = False) -> None:
    """Copy an image, or link to it, in place of whatever lies there. Raises ExportError where that is the image itself."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_symlink() and target.samefile(file):
        raise ExportError(f"{target.parent} leads into the image folder: {file} lies there; remove that link")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    if link:
        partial.symlink_to(file.resolve())
    else:
        shutil.copyfile(file, partial)
    partial.replace(target)
    wrote(target, pixels=True)


def write_classes(out: Path, names: Sequence[str]) -> None:
    """Write classes.txt: line k is class k. Raises ExportError for a name that would break the line."""
    for name in names:
        if len(name.splitlines()) != 1:
            raise ExportError(f"class {name!r} holds a line break; rename its folder or label")
    write_lines(out / CLASSES, names)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write a JSON document whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=indent), encoding="utf-8")
    partial.replace(path)
    wrote(path)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text, each ended; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)
    wrote(path)


# -- the plain format -------------------------------------------------------------------------------------


def write_png(samples: Iterable[Sample], target: Target) -> list[str]:
    """P as indexed PNGs under the images' own names and folders."""
    paths = label_path(target.out, target.names)
    for sample in samples:
        label_png(sample.label, paths[sample.name])
    return []


FORMATS = (Format("png", "indexed PNGs under the images' own names and folders", write_png, "none"),)
