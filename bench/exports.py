"""A store's labels, exported and read back pixel for pixel: python -m bench.exports STORE.

Every lossless format, by the target's own library where there is one; exits with 1 where a pixel differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flows.exporting import export_store
from flows.outputs import finished
from flows.summary import stored_config
from storage.reviews import Reviews
from storage.store import Store
from tasks.export import flat_names
from tasks.export_coco import unpacked
from tasks.export_cvat import read_cvat

Labels = dict[str, np.ndarray]
"""Label maps by the images' paths."""
Back = Callable[[Path, Labels, list[str]], Iterator[tuple[str, np.ndarray]]]


def pngs(pattern: str) -> Back:
    """Reads label PNGs; pattern: where they lie, with {name} or {flat} for the image's."""

    def read(out: Path, labels: Labels, classes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        flat = flat_names(list(labels))
        for name in labels:
            stem = Path(name).with_suffix("").as_posix()
            with Image.open(out / pattern.format(name=stem, flat=flat[name])) as image:
                yield name, np.asarray(image)

    return read


def coco(kind: str) -> Back:
    """Reads COCO through pycocotools."""

    def read(out: Path, labels: Labels, classes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        from pycocotools.coco import COCO

        found = COCO(str(out / "annotations" / f"{kind}_train.json"))
        for entry in found.loadImgs(found.getImgIds()):
            back = np.zeros((entry["height"], entry["width"]), np.uint8)
            for annotation in found.loadAnns(found.getAnnIds(entry["id"])):
                back[found.annToMask(annotation) > 0] = annotation["category_id"]
            if "ignore" in entry:
                back[unpacked(entry["ignore"])] = 255
            yield entry["source"], back

    return read


def hugging_face(out: Path, labels: Labels, classes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the imagefolder through datasets."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        for row in datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=cache)["train"]:
            yield row["source"], np.asarray(row["label"])


def label_studio(out: Path, labels: Labels, classes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the tasks through Label Studio's own decoder."""
    from label_studio_converter.brush import decode_rle

    for task in json.loads((out / "tasks.json").read_text(encoding="utf-8")):
        back = np.zeros_like(labels[task["data"]["source"]])
        for result in task["predictions"][0]["result"]:
            name = result["value"]["brushlabels"][0]
            inside = decode_rle(result["value"]["rle"]).reshape(*back.shape, 4)[..., 3] > 0
            back[inside] = 255 if name == "ignore" else classes.index(name) + 1
        yield task["data"]["source"], back


def cvat(out: Path, labels: Labels, classes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads CVAT's archive by the colours of its own map."""
    paths = {Path(name).with_suffix("").as_posix(): name for name in labels}
    for name, mask in read_cvat(out / "annotations.zip", classes):
        yield paths[name], np.zeros((0, 0), np.uint8) if mask is None else mask


def npz(out: Path, labels: Labels, classes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the arrays."""
    for name in labels:
        with np.load(out / Path(name).with_suffix(".npz")) as found:
            yield name, found["label"]


BACK: dict[str, Back] = {
    "png": pngs("{name}.png"),
    "voc": pngs("SegmentationClass/{flat}.png"),
    "mmseg": pngs("ann_dir/train/{flat}.png"),
    "fiftyone": pngs("labels/{flat}.png"),
    "hf": hugging_face,
    "coco": coco("instances"),
    "coco-semantic": coco("semantic"),
    "cvat": cvat,
    "label-studio": label_studio,
    "npz": npz,
    "png16": pngs("label/{name}.png"),
}


def main() -> int:
    """Export, read back, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    root = parser.parse_args().store
    store = Store.existing(root)
    reviews = Reviews(store)
    labels = {item.row.path: item.label(reviews) for item in finished(store, stored_config(store))}
    faults = 0
    for kind, back in BACK.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            export_store(root, Path(folder), Console(quiet=True), kind=kind)
            seconds = time.perf_counter() - started
            faults += _compare(kind, dict(back(Path(folder), labels, store.classes())), labels, seconds)
    return int(faults > 0)


def _compare(kind: str, found: dict[str, Any], labels: Labels, seconds: float) -> int:
    wrong = [name for name in labels if name not in found or not np.array_equal(found[name], labels[name])]
    pixels = sum(label.size for label in labels.values())
    says = "equal, pixel for pixel" if not wrong else f"{len(wrong)} DIFFER, such as {wrong[0]}"
    print(
        f"{kind:14} {len(found):6} labels, {pixels} pixels, written in {seconds:6.1f} s: {says}", flush=True
    )
    return len(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
