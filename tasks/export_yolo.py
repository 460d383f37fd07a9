"""YOLO segmentation: polygons in shares of the sides, and what that costs in IoU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from tasks.export import UNKNOWN, Format, Sample, Target, flat_names, place_image, write_lines


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of a (y, x) bool mask, a polygon a piece: (point, 2) int x, y; holes are joined by a cut."""
    contours, levels = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = []
    for n, contour in enumerate(contours):
        if levels[0, n, 3] >= 0:
            continue  # a hole; its piece takes it in
        outline, child = contour[:, 0], levels[0, n, 2]
        while child >= 0:
            outline = _joined(outline, contours[child][:, 0])
            child = levels[0, child, 0]
        found.append(np.concatenate([outline] * (1 if len(outline) > 2 else 3)))  # a pixel is a polygon, too
    return found


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """An outline that goes to the hole's nearest point, round it, and back."""
    apart = ((outline[:, None].astype(np.int64) - hole[None]) ** 2).sum(-1)
    i, j = np.unravel_index(int(apart.argmin()), apart.shape)
    round_hole = np.concatenate([hole[j:], hole[: j + 1]])
    return np.concatenate([outline[: i + 1], round_hole, outline[i:]])


def line(k: int, polygon: np.ndarray, shape: tuple[int, int]) -> str:
    """A line of a label file: class from 0, then x and y as shares of width and height, at pixels' centres."""
    shares = (polygon + 0.5) / [shape[1], shape[0]]
    return f"{k - 1} " + " ".join(f"{value:.6f}" for value in shares.ravel())


def drawn(lines: Sequence[str], shape: tuple[int, int]) -> np.ndarray:
    """What a trainer makes of a label file: polygons filled in order, (y, x) uint8 label map."""
    label = np.zeros(shape, np.uint8)
    for text in lines:
        k, *values = text.split()
        points = np.array(values, np.float64).reshape(-1, 2) * [shape[1], shape[0]]
        cv2.fillPoly(label, [points.astype(np.int32)], int(k) + 1)
    return label


def write_yolo(samples: Iterable[Sample], target: Target) -> list[str]:
    """images/, labels/ and data.yaml; says what the polygons lose against the masks."""
    names = flat_names(target.names)
    common, either = np.zeros(256, np.int64), np.zeros(256, np.int64)
    ignored = 0
    for sample in samples:
        place_image(sample, target.out / "images" / sample.part / names[sample.name], target.images)
        classes = [k for k in np.unique(sample.label).tolist() if 0 < k < UNKNOWN]
        lines = [line(k, p, sample.label.shape) for k in classes for p in polygons(sample.label == k)]
        write_lines(target.out / "labels" / sample.part / f"{names[sample.name]}.txt", lines)
        again = drawn(lines, (sample.label.shape[0], sample.label.shape[1]))
        for k in classes:
            common[k] += ((again == k) & (sample.label == k)).sum()
            either[k] += ((again == k) | (sample.label == k)).sum()
        ignored += int((sample.label == UNKNOWN).any())
    _describe(target)
    losses = [
        f"{name}: {100 * (1 - common[k] / either[k]):.3f}"
        for k, name in enumerate(target.classes, start=1)
        if either[k]
    ]
    said = [f"IoU lost to polygons, in percentage points: {', '.join(losses) or 'none'}"]
    return said + [f"{ignored} images hold pixels to be ignored, which YOLO takes for background"] * bool(
        ignored
    )


def _describe(target: Target) -> None:
    lines = ["path: .", *(f"{part}: images/{part}" for part in target.parts), "names:"]
    lines += [f"  {k}: {name!r}" for k, name in enumerate(target.classes)]
    write_lines(target.out / "data.yaml", lines)


FORMATS = (Format("yolo", "YOLO segmentation: polygons, with the IoU that they lose", write_yolo),)
