"""Formats that are folders of images and label PNGs: VOC, mmsegmentation, Hugging Face, FiftyOne."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from tasks.export import (
    Format,
    Sample,
    Target,
    flat_names,
    grey_png,
    jpeg,
    label_png,
    place_image,
    write_json,
    write_lines,
)
from tasks.palette import colour, palette, rgb


def write_voc(samples: Iterable[Sample], target: Target) -> list[str]:
    """Pascal VOC: JPEGImages, SegmentationClass as palette PNGs with 255 ignored, ImageSets/Segmentation."""
    names, lists = flat_names(target.names), defaultdict[str, list[str]](list)
    for sample in samples:
        name = names[sample.name]
        label_png(sample.label, target.out / "SegmentationClass" / f"{name}.png")
        if target.images != "none":
            jpeg(sample, target.out / "JPEGImages" / f"{name}.jpg")
        lists[sample.part].append(name)
    folder = target.out / "ImageSets" / "Segmentation"
    for part in target.parts:
        write_lines(folder / f"{part}.txt", lists[part])
    write_lines(folder / "trainval.txt", [name for part in ("train", "val") for name in lists[part]])
    titles = ["background", *target.classes]
    colours = [(0, 0, 0), *(rgb(colour(k)) for k in range(1, len(titles)))]
    lines = [f"{t}:{r},{g},{b}::" for t, (r, g, b) in zip(titles, colours, strict=True)]
    write_lines(target.out / "labelmap.txt", lines)
    return ["images that were no JPEG were written as JPEG of quality 95; the labels are exact"]


def write_mmseg(samples: Iterable[Sample], target: Target) -> list[str]:
    """mmsegmentation: img_dir and ann_dir by part, grey PNGs with 255 ignored, and metainfo.json."""
    names = flat_names(target.names)
    for sample in samples:
        place_image(sample, target.out / "img_dir" / sample.part / names[sample.name], target.images)
        grey_png(sample.label, target.out / "ann_dir" / sample.part / f"{names[sample.name]}.png")
    colours = [palette()[3 * k : 3 * k + 3] for k in range(len(target.classes) + 1)]
    write_json(
        target.out / "metainfo.json", {"classes": ["background", *target.classes], "palette": colours}, 1
    )
    return ["in the dataset's config: metainfo from metainfo.json, reduce_zero_label=False, ignore_index=255"]


def write_hf(samples: Iterable[Sample], target: Target) -> list[str]:
    """Hugging Face imagefolder: a folder a part with metadata.jsonl, the label as a second image column."""
    names, rows = flat_names(target.names), defaultdict[str, list[str]](list)
    for sample in samples:
        folder, name = target.out / sample.part, names[sample.name]
        placed = place_image(sample, folder / "images" / name, target.images)
        grey_png(sample.label, folder / "labels" / f"{name}.png")
        found = sorted({target.classes[k - 1] for k in set(sample.label.ravel().tolist()) if 0 < k < 255})
        row = {
            "file_name": f"images/{placed.name}",
            "label_file_name": f"labels/{name}.png",
            "source": sample.name,
            "classes": found,
        }
        rows[sample.part].append(json.dumps(row, ensure_ascii=False))
    for part in target.parts:
        if rows[part]:
            write_lines(target.out / part / "metadata.jsonl", rows[part])
    return [f'datasets.load_dataset("imagefolder", data_dir="{target.out}") reads it']


def write_fiftyone(samples: Iterable[Sample], target: Target) -> list[str]:
    """FiftyOne's ImageSegmentationDirectory: data/ and labels/ of the same names, and mask_targets.json."""
    names = flat_names(target.names)
    for sample in samples:
        place_image(sample, target.out / "data" / names[sample.name], target.images)
        grey_png(sample.label, target.out / "labels" / f"{names[sample.name]}.png")
    targets = {str(k): name for k, name in enumerate(target.classes, start=1)}
    write_json(target.out / "mask_targets.json", targets, 1)
    return ["fiftyone.Dataset.from_dir(…, dataset_type=fiftyone.types.ImageSegmentationDirectory) reads it"]


def stem(name: str) -> str:
    """A path without its ending."""
    return PurePosixPath(name).with_suffix("").as_posix()


FORMATS = (
    Format("voc", "Pascal VOC: palette PNGs, 255 ignored, ImageSets", write_voc, pictures=("JPEG",)),
    Format("mmseg", "mmsegmentation: img_dir, ann_dir, metainfo.json", write_mmseg),
    Format("hf", "Hugging Face imagefolder with metadata.jsonl", write_hf),
    Format("fiftyone", "FiftyOne's ImageSegmentationDirectory", write_fiftyone),
)
