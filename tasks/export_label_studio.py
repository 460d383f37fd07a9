"""Label Studio: brush masks in its own run lengths, written as predictions and read back from its export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from tasks.export import UNKNOWN, ExportError, Format, Sample, Target, place_image, write_json
from tasks.palette import UNKNOWN as UNKNOWN_COLOUR
from tasks.palette import colour
from tasks.written import wrote

IGNORE = "ignore"
SIZES = (3, 4, 8, 16)
"""Bits of a run's length, by the two bits before it; the last is the longest run, 65536 values."""


class _Bits:
    """Bits, highest first, gathered into bytes."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def write(self, value: int, width: int) -> None:
        self._parts.append(format(value, f"0{width}b"))

    def bytes(self) -> list[int]:
        text = "".join(self._parts)
        text += "0" * (-len(text) % 8)
        return [int(text[n : n + 8], 2) for n in range(0, len(text), 8)]


def encode(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a mask.

    mask: (y, x) bool. It is told as an RGBA picture, four equal values a pixel: their number (32 bits), their
    width (5), four widths of lengths (4 each), then runs: a bit for `all equal`, which width (2), the length less
    one, the value.
    """
    flat = np.where(mask, 255, 0).astype(np.uint8).ravel()
    out = _Bits()
    out.write(4 * flat.size, 32)
    out.write(7, 5)
    for size in SIZES:
        out.write(size - 1, 4)
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = [0, *edges.tolist()]
    for start, end in zip(starts, [*starts[1:], flat.size], strict=True):
        left = 4 * (end - start)
        while left:
            run = min(left, 1 << SIZES[-1])
            width = next(n for n, size in enumerate(SIZES) if run <= 1 << size)
            out.write(1, 1)
            out.write(width, 2)
            out.write(run - 1, SIZES[width])
            out.write(int(flat[start]), 8)
            left -= run
    return out.bytes()


def decode(rle: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """The (y, x) bool mask of Label Studio's run lengths, as `encode` explains them.

    Raises ExportError where they do not have the pixels of `shape`.
    """
    reader = _Reader(rle)
    count, word = reader.read(32), reader.read(5) + 1
    sizes = [reader.read(4) + 1 for _ in range(4)]
    if count != 4 * shape[0] * shape[1]:
        raise ExportError(f"run lengths of {count // 4} pixels, the image has {shape[0] * shape[1]}")
    values = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        equal = reader.read(1)
        end = at + 1 + reader.read(sizes[reader.read(2)])
        if equal:
            values[at:end] = reader.read(word)
        else:
            values[at:end] = [reader.read(word) for _ in range(end - at)]
        at = end
    return values.reshape(*shape, 4)[..., 3] > 0


class _Reader:
    """Bits of a list of bytes, highest first."""

    def __init__(self, data: Sequence[int]) -> None:
        if not all(isinstance(n, int) and 0 <= n < 256 for n in data):
            raise ExportError("run lengths must be numbers of 0 to 255")
        self._data, self._at = bytes(data), 0

    def read(self, width: int) -> int:
        first, last = self._at // 8, (self._at + width + 7) // 8
        if last > len(self._data):
            raise ExportError("run lengths end too early")
        value = int.from_bytes(self._data[first:last], "big")
        self._at += width
        return (value >> (8 * last - self._at)) & ((1 << width) - 1)


# -- there ------------------------------------------------------------------------------------------------


def write_label_studio(samples: Iterable[Sample], target: Target) -> list[str]:
    """images/, tasks.json with the labels as predictions, and labels.xml, the labelling setup."""
    tasks = []
    for sample in samples:
        stem = PurePosixPath(sample.name).with_suffix("").as_posix()
        placed = place_image(sample, target.out / "images" / stem, target.images)
        name = placed.relative_to(target.out).as_posix() if target.images != "none" else sample.name
        results = [_result(k, sample, target.classes) for k in np.unique(sample.label).tolist() if k]
        tasks.append(
            {
                "data": {"image": f"/data/local-files/?d={name}", "source": sample.name},
                "predictions": [{"model_version": "bluemask", "result": results}],
            }
        )
    write_json(target.out / "tasks.json", tasks)
    (target.out / "labels.xml").write_text(labelling_setup(target.classes), encoding="utf-8")
    wrote(target.out / "labels.xml")
    return [
        "in Label Studio: labels.xml as labelling setup, then import tasks.json",
        f"serve the images with LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={target.out.resolve()}",
    ]


def _result(k: int, sample: Sample, classes: Sequence[str]) -> dict[str, Any]:
    height, width = sample.label.shape
    name = IGNORE if k == UNKNOWN else classes[k - 1]
    return {
        "id": f"label-{k}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "image_rotation": 0,
        "original_width": width,
        "original_height": height,
        "value": {"format": "rle", "rle": encode(sample.label == k), "brushlabels": [name]},
    }


def labelling_setup(classes: Sequence[str]) -> str:
    """The XML that Label Studio asks for: an image and a brush for every class."""
    labels = [(name, colour(k)) for k, name in enumerate(classes, start=1)] + [(IGNORE, UNKNOWN_COLOUR)]
    lines = [f'    <Label value="{escape(name)}" background="{code}"/>' for name, code in labels]
    body = "\n".join(lines)
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{body}\n  </BrushLabels>\n</View>\n'
    )


# -- back -------------------------------------------------------------------------------------------------


def read_label_studio(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, np.ndarray | None]]:
    """Masks of Label Studio's JSON export.

    Yields the image's path without its ending, and a (y, x) uint8 label map, None where the annotation is empty:
    the image shows no defect. classes: names from index 1. Only annotations count (predictions are ours), the last of a task that was not
    cancelled. Raises ExportError for what cannot be read.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is no JSON that can be read ({error}); export as JSON") from error
    if not isinstance(tasks, list):
        raise ExportError(f"{path}: expected a list of tasks; export as JSON, not as JSON-MIN")
    for n, task in enumerate(tasks):
        where = f"{path}, task {task.get('id', n + 1)}"
        annotations = [a for a in task.get("annotations", []) if not a.get("was_cancelled")]
        if annotations:
            try:
                yield task_image(task), _drawn(annotations[-1]["result"], classes)
            except (ExportError, KeyError, TypeError, IndexError) as error:
                raise ExportError(f"{where}: {error}") from error


def task_image(task: dict[str, Any]) -> str:
    """The image's path without its ending: as we wrote it, else from the address that the task has."""
    if task["data"].get("source"):
        return PurePosixPath(task["data"]["source"]).with_suffix("").as_posix()
    address = urlsplit(task["data"]["image"])
    local = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    name = PurePosixPath(local.removeprefix("images/"))
    # an uploaded file gets eight digits before its name
    return name.with_name(re.sub(r"^[0-9a-f]{8}-", "", name.name)).with_suffix("").as_posix().lstrip("/")


def _drawn(results: Sequence[dict[str, Any]], classes: Sequence[str]) -> np.ndarray | None:
    brushes = [r for r in results if r.get("type") == "brushlabels"]
    others = {r.get("type") for r in results} - {"brushlabels", "choices", "textarea", "relation"}
    if others:
        raise ExportError(f"drawn with {', '.join(sorted(map(str, others)))}; only brush masks are read")
    if not brushes:
        return None
    known = {IGNORE: UNKNOWN, **{name: k for k, name in enumerate(classes, start=1)}}
    shape = (brushes[0]["original_height"], brushes[0]["original_width"])
    label = np.zeros(shape, np.uint8)
    for result in brushes:
        for name, _ in groupby(result["value"]["brushlabels"]):
            if name not in known:
                raise ExportError(f"label {name!r} is none of the store's classes: {', '.join(classes)}")
            label[decode(result["value"]["rle"], shape)] = known[name]
    return label


FORMATS = (Format("label-studio", "Label Studio: brush masks as predictions", write_label_studio),)
