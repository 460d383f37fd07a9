"""Stage ingest: the user's files as one block of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from storage.arrays import ArraySpec
from storage.catalog import ImageRow
from tasks.stage import Arrays, ModelKind, Stage

PLACEHOLDER = 16
"""Side in pixels of the black image that stands where one cannot be had: its row stays, unused."""

MARKS = "marks: "
"""Begins the reason where an image's marks do not fit, and nothing else is wrong with it."""

Pixels = Callable[[ImageRow], np.ndarray]
Marks = Callable[[ImageRow, tuple[int, int]], np.ndarray]


class Ingested(NamedTuple):
    """A block's arrays, and the images that get no label, by catalog id.

    failed: why, of those that could not be read or whose marks do not fit (these begin with MARKS).
    """

    arrays: Arrays
    failed: dict[int, str]


def unread(failed: Mapping[int, str]) -> set[int]:
    """Of a receipt's failures the images whose pixels are not there; where marks alone do not fit, they are."""
    return {i for i, why in failed.items() if not why.startswith(MARKS)}


def unusable(failed: Mapping[int, str], kind: ModelKind) -> set[int]:
    """Of a receipt's failures the images that a network cannot learn from, or be judged on; the ViT sees no marks."""
    return unread(failed) if kind == "vit" else set(failed)


def ingest(
    *, rows: Sequence[ImageRow], classes: Sequence[str], pixels: Pixels, marks: Marks, lenient: frozenset[int]
) -> Ingested:
    """Read a block's images and encode what is known of them.

    rows: the block's rows of the catalog, in order.
    classes: names of all classes; class k of a label map is the k-th, from 1.
    pixels: gives an image as (y, x, channel) uint8 RGB; may raise OSError or ValueError.
    marks: gives what the user marked as a (y, x) uint8 label map of the given height and width,
        255 where nothing is marked.
    lenient: ids of retired images, for which a placeholder is no failure.
    Returns arrays as declared in STAGE, and failures.
    """
    images, annotations, failed = [], [], dict[int, str]()
    for row in rows:
        try:
            image = pixels(row)
        except (OSError, ValueError) as error:
            image = np.zeros((PLACEHOLDER, PLACEHOLDER, 3), np.uint8)
            failed[row.id] = str(error)
        annotation = np.full(image.shape[:2], 255, np.uint8)
        if row.annotation and row.id not in failed:
            try:
                annotation = marks(row, (image.shape[0], image.shape[1]))
            except (OSError, ValueError) as error:
                # its pixels stay: once the mark is mended, nothing is encoded anew
                failed[row.id] = f"{MARKS}{error}"
        images.append(image)
        annotations.append(annotation)
    failed = {i: why for i, why in failed.items() if i not in lenient}
    size = np.array([image.shape[:2] for image in images], np.uint16)  # (image, extent)
    lost = unread(failed)
    label = encode_labels([() if row.id in lost else row.labels for row in rows], classes)
    arrays: Arrays = {
        "image": padded(images, 0),
        "size": size,
        "label": label,
        "slot_class": slots(label),
        "annotation": padded(annotations, 255),
        "sha256": np.array([list(bytes.fromhex(row.sha256)) for row in rows], np.uint8),
    }
    return Ingested(arrays, failed)


def padded(images: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Stack images of mixed sizes: (image, y, x, …), as large as the largest, `fill` outside."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    stack = np.full((len(images), height, width, *images[0].shape[2:]), fill, images[0].dtype)
    for n, image in enumerate(images):
        stack[n, : image.shape[0], : image.shape[1]] = image
    return stack


def encode_labels(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """(image, class) bool from names. Raises ValueError for a name that is no class."""
    encoded = np.zeros((len(labels), max(1, len(classes))), bool)
    for n, names in enumerate(labels):
        for name in names:
            if name not in classes:
                raise ValueError(f"label {name!r} is none of the classes {', '.join(classes)}")
            encoded[n, list(classes).index(name)] = True
    return encoded


def slots(label: np.ndarray) -> np.ndarray:
    """(image, slot) uint8: the classes of each image in order, from 1; 0 where a slot is unused."""
    width = max(1, int(label.sum(1).max(initial=0)))
    table = np.zeros((len(label), width), np.uint8)
    for n, row in enumerate(label):
        present = np.flatnonzero(row) + 1
        table[n, : len(present)] = present
    return table


def _spec(name: str, dims: str, dtype: str, kind: str, description: str, fill: float = 0) -> ArraySpec:
    return ArraySpec.model_validate(
        {
            "name": name,
            "dims": tuple(dims.split()),
            "dtype": dtype,
            "kind": kind,
            "description": description,
            "fill": fill,
        }
    )


STAGE = Stage(
    name="ingest",
    version=2,
    function=ingest,
    reads=(),
    writes=(
        _spec("image", "image y x channel", "uint8", "image", "RGB, padded with 0 to the block's largest"),
        _spec("size", "image extent", "uint16", "number", "True height and width, in pixels"),
        _spec("label", "image class", "bool", "flag", "Which classes the image shows"),
        _spec("slot_class", "image slot", "uint8", "number", "Class index of each slot, 0 where unused"),
        _spec(
            "annotation", "image y x", "uint8", "label map", "What the user marked, 255 where nothing", 255
        ),
        _spec("sha256", "image byte", "uint8", "number", "Digest of the source file; seeds come from it"),
    ),
    config=(),
    summary="the user's files as RGB, with true sizes, labels and marks",
)
