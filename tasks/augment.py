"""Stage augment: the views of every image, as SAM's encoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from storage.arrays import ArraySpec
from tasks.stage import Arrays, Stage, counted
from tasks.views import CANVAS, WHOLE, Extent, View

Element = tuple[bool, int]
"""A mirror of x, then quarter turns."""
ScaleMode = Literal["canvas", "resize"]


def augment(
    *,
    image: np.ndarray,
    size: np.ndarray,
    sha256: np.ndarray,
    input_side: int,
    views: int,
    flips: bool,
    turns: bool,
    scales: Sequence[float],
    scale_mode: ScaleMode,
    seed: int,
) -> Arrays:
    """Draw each image's views and bring them to SAM's input, by the predictor's own resize.

    image: (image, y, x, channel=3) uint8 RGB, padded; size: (image, extent=2) uint16 true height and width.
    sha256: (image, byte=32) uint8, which with `seed` decides the views.
    input_side: side t of SAM's input in pixels.
    views, flips, turns, scales, scale_mode: see `draw_views`.
    Returns arrays as declared in STAGE. Raises ValueError where there are not that many distinct views.
    """
    count = len(image)
    out: Arrays = {
        "view": np.zeros((count, views, 4), np.float32),
        "augmented": np.zeros((count, views, input_side, input_side, 3), np.uint8),
        "input_size": np.zeros((count, views, 2), np.uint16),
    }
    for n in counted(count):
        height, width = size[n].tolist()
        rng = image_rng(seed, sha256[n])
        drawn = draw_views(rng, views, flips=flips, turns=turns, scales=scales, scale_mode=scale_mode)
        for j, view in enumerate(drawn):
            seen = view.apply_image(image[n, :height, :width])
            out["view"][n, j] = view.parameters
            out["input_size"][n, j] = sam_input(seen, out["augmented"][n, j])
    return out


def sam_input(image: np.ndarray, frame: np.ndarray) -> Extent:
    """An image resized as the official SamPredictor does it, byte for byte, into the top left of a frame.

    image: (y, x, channel=3) uint8 RGB; frame: (side, side, channel=3) uint8, of which the rest is left as it is.
    Returns height and width within the frame, the longer one its side. Raises ValueError for too narrow an image, or
    for another frame.
    """
    side = len(frame)
    if frame.dtype != np.uint8 or frame.shape != (side, side, 3):
        raise ValueError(f"frame is {frame.shape} {frame.dtype}, expected (side, side, 3) uint8")
    height, width = input_extent((image.shape[0], image.shape[1]), side)
    if min(height, width) < 1:
        raise ValueError(f"an image of {image.shape[:2]} is too narrow for SAM's input of {side} pixels")
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    inside = frame[:height, :width]
    try:
        # a view of Pillow's own memory: its copies hold the interpreter, and whoever feeds an accelerator waits for it
        pixels = np.frombuffer(pa.array(resized).flatten().buffers()[1], np.uint8).reshape(height, width, 4)
    except ValueError:  # in several blocks, as PILLOW_BLOCK_SIZE may ask for
        inside[:] = np.asarray(resized)
    else:
        cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB, dst=inside)
    return height, width


def image_rng(seed: int, sha256: np.ndarray, *more: int) -> np.random.Generator:
    """Random numbers that depend on the image's content alone, not on its neighbours or its place.

    sha256: (byte=32,) uint8; seed and more: non-negative integers, such as a class.
    """
    return np.random.default_rng([seed, *more, *np.ascontiguousarray(sha256).view(np.uint32).tolist()])


def draw_views(
    rng: np.random.Generator,
    views: int,
    *,
    flips: bool,
    turns: bool,
    scales: Sequence[float],
    scale_mode: ScaleMode,
) -> list[View]:
    """Distinct views of one image, the identity first.

    flips: both mirrors and their product; turns: all quarter turns; together the 8 distinct ones.
    scales: from 0.5, 1 and 2, assigned in turn. Under `canvas` ×0.5 pads and ×2 takes a quadrant, the four in
    turn. Under `resize` SAM's own resize undoes ×2, so that it counts as ×1.
    Mirrors and turns do not repeat before all were drawn. Raises ValueError where fewer than `views` exist.
    """
    elements = _elements(flips, turns)
    windows = _windows(scales, scale_mode)
    distinct = len(elements) * sum(len(each) for each in windows.values())
    if views > distinct:
        raise ValueError(
            f"{views} views asked for, but flips={flips}, turns={turns}, scales={list(scales)} under"
            f" scale_mode={scale_mode!r} make {distinct} distinct ones; lower `views` or allow more"
        )
    order = [elements[0], *(elements[i] for i in 1 + rng.permutation(len(elements) - 1))]
    starts = {scale: int(rng.integers(len(each))) for scale, each in windows.items()}
    turned = {scale: each[starts[scale] :] + each[: starts[scale]] for scale, each in windows.items()}
    return _distinct(order, turned, views)


def _distinct(order: list[Element], windows: dict[float, tuple[int, ...]], views: int) -> list[View]:
    """Views with scales in turn, windows in turn within a scale, elements in order, none twice."""
    drawn = [View()]
    used, turn = {order[0]: 1}, dict.fromkeys(windows, 0)
    turn[1.0] = 1
    scales = cycle([*list(windows)[1:], 1.0]) if len(windows) > 1 else cycle(windows)
    while len(drawn) < views:
        scale = next(scales)
        window = windows[scale][turn[scale] % len(windows[scale])]
        turn[scale] += 1
        free = [e for e in order if View(*e, scale, window) not in drawn]
        if free:
            element = min(free, key=lambda e: used.get(e, 0))
            used[element] = used.get(element, 0) + 1
            drawn.append(View(*element, scale, window))
    return drawn


def _elements(flips: bool, turns: bool) -> list[Element]:
    """Mirrors and turns allowed, the identity first. Mirror and half turn together mirror y."""
    if flips and turns:
        return [(flip, turn) for flip in (False, True) for turn in range(4)]
    if flips:
        return [(False, 0), (True, 0), (True, 2), (False, 2)]
    return [(False, turn) for turn in range(4 if turns else 1)]


def _windows(scales: Sequence[float], scale_mode: ScaleMode) -> dict[float, tuple[int, ...]]:
    """Windows of each distinct scale; ×1 first, as the identity is always among the views."""
    unknown = sorted(set(scales) - {0.5, 1.0, 2.0})
    if unknown:
        raise ValueError(f"scales {unknown} are not known; choose from 0.5, 1 and 2")
    windows: dict[float, tuple[int, ...]] = {1.0: (WHOLE,)}
    for scale in scales:
        if scale == 0.5:
            windows[0.5] = (CANVAS,) if scale_mode == "canvas" else (WHOLE,)
        if scale == 2 and scale_mode == "canvas":
            windows[2.0] = (1, 2, 3, 4)
    return windows


def input_extent(extent: Extent, side: int) -> Extent:
    """Height and width of a view's image within SAM's input of `side` pixels, rounded as the predictor does."""
    scale = side / max(extent)
    return int(extent[0] * scale + 0.5), int(extent[1] * scale + 0.5)


STAGE = Stage(
    name="augment",
    version=1,
    function=augment,
    reads=("image", "size", "sha256"),
    writes=(
        ArraySpec(
            name="view",
            dims=("image", "view", "parameter"),
            dtype="float32",
            kind="number",
            description="mirror of x (0, 1), quarter turns counter-clockwise, scale, window (0 whole,"
            " 1 to 4 quadrants, 5 padded canvas)",
        ),
        ArraySpec(
            name="augmented",
            dims=("image", "view", "ty", "tx", "channel"),
            dtype="uint8",
            kind="image",
            description="SAM's input: each view, resized to its longest side and padded with 0",
        ),
        ArraySpec(
            name="input_size",
            dims=("image", "view", "extent"),
            dtype="uint16",
            kind="number",
            units="pixel",
            description="height and width of the view within SAM's input",
        ),
    ),
    config=("augment",),
    facts=("input_side",),
    summary="distinct views of every image, as SAM reads them",
)
