"""The panels of the image page: each array as pixels, in the order of the method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps

from tasks.reading import Labelled
from tasks.views import View
from viewer import style

UNKNOWN = 255
LARGEST = 2048
"""Longest side in pixels that is sent; larger images come smaller, values under the pointer stay exact."""
THUMB = 224
"""Longest side of a thumbnail in pixels."""
Rgba = np.ndarray
"""(y, x, channel=4) uint8."""


@dataclass(frozen=True)
class Panel:
    """One cell of the strip.

    name: in its address; title, alt: for people; group: the heading that it stands under; overlay: whether it
    is laid over the image, so that the opacity slider acts on it; view: which view's frame it is in, None for
    the image's own; prompts: whether the prompts are drawn over it.
    """

    name: str
    title: str
    alt: str
    group: str
    overlay: bool = True
    view: int | None = None
    prompts: bool = False


def describe(view: View) -> str:
    """A view in few words."""
    where = ("", "top left", "top right", "bottom left", "bottom right", "")[view.window]
    parts = ["mirrored"] if view.flip else []
    parts += [f"{90 * view.turns}°"] if view.turns else []
    parts += [f"×{view.scale:g}"] if view.scale != 1 else []
    return " · ".join(parts + [where] * bool(where)) or "as it is"


def strip_panels(
    views: Sequence[View], *, objects: bool, before: bool, truth: bool, correction: bool
) -> list[Panel]:
    """Every panel of an image, from its pixels to its label.

    objects: whether the embedded start was asked; before, truth, correction: whether there is last night's P, a ground truth, and a corrected mask.
    """
    panels = [Panel("image", "Image", "the image itself", "Image", overlay=False)]
    for j, view in enumerate(views):
        seen = describe(view)
        panels += [
            Panel(
                f"view-{j}",
                f"View {j + 1}",
                f"view {j + 1}, {seen}, with SAM's mask in it",
                "SAM's views",
                view=j,
            ),
            Panel(f"back-{j}", "back in place", f"mask of view {j + 1} in the image's frame", "SAM's views"),
        ]
    panels += [
        Panel("mean", "Mean", "share of the views that see the class", "Where the views agree"),
        Panel("entropy", "Entropy", "disagreement of the views in bits", "Where the views agree"),
        *[Panel("objectness", "Objectness", "where the embedded start sees a defect of any class",
                "Where the classifier looks")] * objects,
        Panel("cam", "CAM", "where the ViT sees the class", "Where the classifier looks"),
        Panel("prompts", "Prompts", "what SAM was asked, on the image", "Where the classifier looks",
              overlay=False, prompts=True),
        Panel("p1", "P1", "label map from the CAM", "Labels"),
        Panel("p2", "P2", "label map from SAM's views", "Labels"),
        Panel("p", "P", "label map of the fusion", "Labels"),
        Panel("confidence", "Confidence", "confidence of P", "Labels"),
    ]  # fmt: skip
    compared = ((correction, "correction", "Corrected", "the mask that was drawn by hand"),
                (before, "before", "P, last time", "P of the run before"),
                (truth, "truth", "Ground truth", "the mask that was given as ground truth"))  # fmt: skip
    return panels + [Panel(name, title, alt, "To compare") for there, name, title, alt in compared if there]


def affine(view: View, size: tuple[int, int]) -> list[list[float]]:
    """How a point of the image's frame moves into the frame of a view's map: [[a, b, c], [d, e, f]].

    x' = a·x + b·y + c with whole numbers at the centres of pixels, so that one zoom and pan serves every panel.
    """
    grid = View(view.flip, view.turns, 1.0, view.window)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    origin, right, down = grid.apply_points(corners, size)
    return [[right[n] - origin[n], down[n] - origin[n], origin[n]] for n in (0, 1)]


# -- pixels -----------------------------------------------------------------------------------------------


def draw_panel(name: str, item: Labelled, slot: int, extra: Callable[[str], np.ndarray | None]) -> Rgba:
    """One panel in its own frame: RGBA of true extent.

    name: of a Panel; slot: of the arrays that have one; extra: gives the label maps that lie in no array
    (`before`, `truth`, `correction`). Raises KeyError for a name that is no panel.
    """
    kind, _, number = name.partition("-")
    if kind in ("image", "prompts"):
        return opaque(item.array("image"))
    if kind in ("view", "back"):
        return _draw_view(item, slot, int(number), upright=kind == "back")
    if kind in ("mean", "entropy", "cam"):
        return heat(item.array(kind)[slot], style.HEAT)
    if kind == "objectness":
        return heat(item.array(kind), style.HEAT)
    if kind == "confidence":
        return heat(item.array(kind), style.TRUST)
    if kind in ("p1", "p2", "p"):
        return fill(item.array(kind))
    label = extra(name)
    if label is None:
        raise KeyError(name)
    return fill(label)


def _draw_view(item: Labelled, slot: int, j: int, *, upright: bool) -> Rgba:
    """A view as SAM saw it with its mask, or the mask alone back in the image's frame."""
    k = int(item.array("slot_class")[slot])
    votes = item.array("mask")[slot, j]  # (y, x) {0, 1, 255}
    layer = np.where(votes == 1, k, np.where(votes == UNKNOWN, UNKNOWN, 0)).astype(np.uint8)
    if upright:
        return fill(layer)
    view = View.of(item.array("view")[j])
    return fill(view.apply_map(layer, fill=UNKNOWN))


def view_image(item: Labelled, j: int) -> Rgba:
    """The image as a view shows it, at the image's own resolution."""
    view = View.of(item.array("view")[j])
    return opaque(View(view.flip, view.turns, 1.0, view.window).apply_image(item.array("image")))


def opaque(image: np.ndarray) -> Rgba:
    """(y, x, channel=3) uint8 with full alpha."""
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


def heat(values: np.ndarray, name: str) -> Rgba:
    """Evidence (y, x) in [0, 1] through a colour map, opaque."""
    table = (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    level = (np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1) * 255).round().astype(np.uint8)
    return opaque(table[level])


def fill(label: np.ndarray) -> Rgba:
    """A label map: classes in their colours, 255 striped, background clear."""
    table = np.zeros((256, 4), np.uint8)
    for k in range(1, UNKNOWN):
        table[k] = (*(style.rgb(style.colour(k)) * 255).round().astype(np.uint8), 255)
    picture = table[label]
    unsure = label == UNKNOWN
    if unsure.any():
        bright = np.where(style.stripes((label.shape[0], label.shape[1])), 235, 120).astype(np.uint8)
        picture[unsure] = np.dstack([bright, bright, bright, np.full_like(bright, 200)])[unsure]
    return np.asarray(picture)


def within(picture: Rgba, longest: int = LARGEST, *, smooth: bool = False) -> Rgba:
    """A picture no larger than `longest`; hard edges stay hard unless it is smooth."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=how))


def png(picture: Rgba) -> bytes:
    """RGBA as a PNG, packed fast rather than small: it goes to the same machine."""
    plain = picture[..., :3] if (picture[..., 3] == 255).all() else picture
    order = [2, 1, 0] if plain.shape[2] == 3 else [2, 1, 0, 3]
    done, data = cv2.imencode(".png", plain[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError(f"a picture of shape {picture.shape} could not be packed as PNG")
    return data.tobytes()


def thumbnail(image: np.ndarray, label: np.ndarray | None, *, damaged: bool = False) -> bytes:
    """A small picture of an image with the outline of its label, as JPEG.

    image: (y, x, channel=3) uint8; label: (y, x) uint8 label map, None where there is none yet.
    damaged: there is one that cannot be read: the picture says so, as without an outline it would look like no defect.
    """
    small = np.array(within(image, THUMB, smooth=True), order="C")  # drawn upon
    size = (small.shape[1], small.shape[0])
    counts = np.zeros(256) if label is None else cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    for k in np.flatnonzero(counts).tolist():
        if 0 < k < UNKNOWN and label is not None:
            inside = cv2.resize((label == k).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
            if not inside.any():  # smaller than a pixel here: it is shown all the same
                share = cv2.resize((label == k).astype(np.float32), size, interpolation=cv2.INTER_AREA)
                inside = (share >= share.max()).astype(np.uint8)
            _outline(small, inside, style.colour(k))
    if damaged:
        height, width = small.shape[:2]
        small[: max(12, height // 5)] = (200, 30, 30)
        place, size_of_text = (4, max(10, height // 7)), max(0.3, width / 260)
        cv2.putText(
            small, "damaged", place, cv2.FONT_HERSHEY_SIMPLEX, size_of_text, (255, 255, 255), 1, cv2.LINE_AA
        )
    done, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not done:
        raise RuntimeError(f"a thumbnail of shape {small.shape} could not be packed as JPEG")
    return data.tobytes()


def _outline(picture: np.ndarray, inside: np.ndarray, colour: str) -> None:
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    ink = (style.rgb(colour) * 255).round().astype(int).tolist()
    cv2.drawContours(picture, contours, -1, (0, 0, 0), 3)
    cv2.drawContours(picture, contours, -1, ink, 1)


# -- numbers ----------------------------------------------------------------------------------------------


def prompts_of(item: Labelled, slot: int) -> list[dict[str, Any]]:
    """The points that SAM was given, all views together, in the image's frame: x, y, on the defect or beside, view."""
    size = (item.row.height, item.row.width)
    points, views = item.array("point")[slot], item.array("view")  # (piece, view, point, 3)
    found = []
    for j, row in enumerate(views):
        given = points[:, j].reshape(-1, 3)
        given = given[np.isfinite(given).all(1)]
        for (x, y), on in zip(View.of(row).invert_points(given[:, :2], size), given[:, 2], strict=True):
            found.append({"x": round(float(x), 1), "y": round(float(y), 1), "on": bool(on), "view": j})
    return found


def marks_of(item: Labelled, slot: int) -> list[dict[str, Any]]:
    """What a person marked of a slot's class, and as background (class 0), by class; none where nothing is marked.

    Of each class its pieces, as the outline through the centres of their pixels: [[x, y], …] in the image's frame, a single
    place for a point.
    """
    annotation, k = item.array("annotation"), int(item.array("slot_class")[slot])
    found = []
    for marked in dict.fromkeys((k, 0)):
        inside = (annotation == marked).astype(np.uint8)
        pieces, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if pieces:
            found.append({"class": marked, "pieces": [piece.reshape(-1, 2).tolist() for piece in pieces]})
    return found


def values_at(item: Labelled, slot: int, x: int, y: int) -> dict[str, Any]:
    """What the arrays hold at one pixel of the image; `confidence` is of P's class there, `mark` 255 where nobody marked it."""
    return {
        "x": x,
        "y": y,
        "rgb": item.pixel("image", x, y).tolist(),
        "class": int(item.pixel("p", x, y)),
        "p1": int(item.pixel("p1", x, y)),
        "p2": int(item.pixel("p2", x, y)),
        "mean": float(item.pixel("mean", x, y)[slot]),
        "entropy": float(item.pixel("entropy", x, y)[slot]),
        "cam": float(item.pixel("cam", x, y)[slot]),
        "confidence": float(item.pixel("confidence", x, y)),
        "mark": int(item.pixel("annotation", x, y)),
    }
