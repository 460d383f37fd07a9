"""CVAT's "Segmentation mask 1.1": one archive of coloured PNGs and a map of colours; written, and read back."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tasks.export import UNKNOWN, ExportError, Format, Sample, Target, place_image
from tasks.export_coco import pieces
from tasks.palette import UNKNOWN as UNKNOWN_COLOUR
from tasks.palette import colour, palette, rgb
from tasks.written import wrote

ARCHIVE = "annotations.zip"
IGNORE = "ignore"
"""Label of pixels that are to be ignored, where there are any."""
LARGEST = 1 << 30
"""Most bytes that a file of an archive may unpack to."""


def write_cvat(samples: Iterable[Sample], target: Target) -> list[str]:
    """images/ to upload as a task, and annotations.zip to upload as its annotations."""
    target.out.mkdir(parents=True, exist_ok=True)
    stems, ignored = list[str](), 0
    partial = target.out / f"{ARCHIVE}.partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for sample in samples:
            stem = PurePosixPath(sample.name).with_suffix("").as_posix()
            place_image(sample, target.out / "images" / stem, target.images)
            archive.writestr(f"SegmentationClass/{stem}.png", _png(sample.label, palette()))
            archive.writestr(f"SegmentationObject/{stem}.png", _png(_objects(sample.label), numbers()))
            ignored += int((sample.label == UNKNOWN).any())
            stems.append(stem)
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{stem}\n" for stem in stems))
        archive.writestr("labelmap.txt", labelmap(target.classes, ignore=ignored > 0))
    partial.replace(target.out / ARCHIVE)
    wrote(target.out / ARCHIVE)
    said = ["in CVAT: a task of images/ with these labels: " + ", ".join(target.classes)]
    said += [f"and one more label, {IGNORE!r}, for {ignored} images with pixels to be ignored"] * bool(
        ignored
    )
    return [*said, f"then upload {ARCHIVE} as annotations in the format `Segmentation mask 1.1`"]


def labelmap(classes: Sequence[str], *, ignore: bool) -> str:
    """labelmap.txt: a line a label with its colour. Raises ExportError for a name that would break the line."""
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    for k, name in enumerate(classes, start=1):
        if any(mark in name for mark in ":\n\r") or name in ("background", IGNORE):
            raise ExportError(f"class {name!r} cannot be a label of CVAT's map; rename its folder or label")
        lines.append(f"{name}:{','.join(map(str, rgb(colour(k))))}::")
    lines += [f"{IGNORE}:{','.join(map(str, rgb(UNKNOWN_COLOUR)))}::"] * ignore
    return "\n".join(lines) + "\n"


def _objects(label: np.ndarray) -> np.ndarray:
    """Every piece a number of its own, beyond 254 from 1 again; 255 stays. The class tells them apart besides."""
    out = np.where(label == UNKNOWN, np.uint8(UNKNOWN), np.uint8(0))
    for n, (_, mask) in enumerate(pieces(label, whole=False)):
        out[mask] = 1 + n % 254
    return np.asarray(out, np.uint8)


def numbers() -> list[int]:
    """768 numbers, RGB of every index by Pascal VOC's own rule, in which readers expect the pieces' numbers."""
    table = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        table += colour
    return table


def _png(values: np.ndarray, colours: list[int]) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(values))
    image.putpalette(colours)
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return sink.getvalue()


# -- back -------------------------------------------------------------------------------------------------


def read_cvat(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, np.ndarray | None]]:
    """Masks of an archive that CVAT exported: the image's path without its ending, and a (y, x) uint8 label map.

    classes: names from index 1. Raises ExportError where a label or a colour is none that is known.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{path} is no archive that can be read ({error}); export it from CVAT again"
        ) from error
    with archive:
        if "labelmap.txt" not in archive.namelist():
            raise ExportError(f"{path} has no labelmap.txt; export as `Segmentation mask 1.1`")
        table = _table(path, archive.read("labelmap.txt").decode("utf-8"), classes)
        for item in archive.infolist():
            name = PurePosixPath(item.filename)
            if name.parts[0] == "SegmentationClass" and name.suffix == ".png":
                if item.file_size > LARGEST:
                    raise ExportError(
                        f"{path}: {name} unpacks to {item.file_size} bytes, more than {LARGEST}"
                    )
                stem = PurePosixPath(*name.parts[1:]).with_suffix("").as_posix()
                yield stem, _label(f"{path}: {name}", archive.read(item), table)


def _table(path: Path, text: str, classes: Sequence[str]) -> dict[int, int]:
    """Colour, as one number, to index."""
    known = {"background": 0, IGNORE: UNKNOWN, **{name: k for k, name in enumerate(classes, start=1)}}
    table = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        if name not in known:
            raise ExportError(f"{path}: label {name!r} is none of the store's classes: {', '.join(classes)}")
        r, g, b = (int(value) for value in rest.split(":")[0].split(","))
        table[(r << 16) | (g << 8) | b] = known[name]
    return table


def _label(where: str, data: bytes, table: dict[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("RGB"), np.int32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    found, place = np.unique(codes, return_inverse=True)
    strange = [code for code in found.tolist() if code not in table]
    if strange:
        raise ExportError(f"{where}: colour #{strange[0]:06X} is none of its labelmap.txt")
    values = np.array([table[code] for code in found.tolist()], np.uint8)
    return np.asarray(values[place].reshape(codes.shape))


FORMATS = (Format("cvat", "CVAT's Segmentation mask 1.1", write_cvat),)
