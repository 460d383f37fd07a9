"""Views of an image and their exact inverses: a window, a mirror, quarter turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

WHOLE, CANVAS = 0, 5
"""Windows: the whole image, and the padded canvas of twice its sides; 1 to 4 are the quadrants."""
QUADRANT = 0.6
"""Share of each side that a quadrant of the ×2 canvas shows: neighbours overlap by a fifth of the side, so
that a defect on the middle line is whole in one of them unless it is larger than that."""
NEUTRAL = (124, 116, 104)
"""RGB around the image on the padded canvas: SAM's mean pixel, which becomes about 0 once normalised."""

Extent = tuple[int, int]
"""Height and width in pixels."""


class Window(NamedTuple):
    """A rectangle in the image's frame, in pixels; it may reach beyond the image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns in the image's frame; only where it does not reach beyond the image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class View:
    """One augmentation of an image, with its exact inverse.

    The window is cut out (or padded), resized by `scale` if it is the whole image, mirrored, then turned.

    flip: whether x is mirrored.
    turns: quarter turns counter-clockwise, 0 to 3, after the mirror.
    scale: 1; 2 with a quadrant; 0.5 with the padded canvas; any other factor resizes the whole image.
    window: 0 the whole image, 1 to 4 a quadrant (top left, top right, bottom left, bottom right), 5 the canvas.

    Points are pixel coordinates x, y with whole numbers at the centres of pixels. Raises ValueError where a
    parameter is none of these.
    """

    flip: bool = False
    turns: int = 0
    scale: float = 1.0
    window: int = WHOLE

    def __post_init__(self) -> None:
        """Refuse what is no view."""
        if self.turns not in range(4) or self.window not in range(6) or not self.scale > 0:
            raise ValueError(f"{self}: turns must be 0 to 3, window 0 to 5 and scale above 0")

    @staticmethod
    def of(parameters: np.ndarray) -> View:
        """The view of one row of the array `view`: (parameter=4,) numbers flip, turns, scale, window."""
        flip, turns, scale, window = parameters.tolist()
        return View(bool(flip), int(turns), float(scale), int(window))

    @property
    def parameters(self) -> np.ndarray:
        """Its row of the array `view`: (parameter=4,) float32."""
        return np.array([self.flip, self.turns, self.scale, self.window], np.float32)

    def frame(self, size: Extent) -> Window:
        """What it sees of an image of that size, before mirror and turns."""
        height, width = size
        if self.window == WHOLE:
            return Window(0, 0, height, width)
        if self.window == CANVAS:
            return Window(-(height // 2), -(width // 2), 2 * height, 2 * width)
        part = math.ceil(QUADRANT * height), math.ceil(QUADRANT * width)
        below, right = divmod(self.window - 1, 2)
        return Window(below * (height - part[0]), right * (width - part[1]), *part)

    def shown(self, size: Extent) -> Window:
        """The part of an image of that size that it shows."""
        window = self.frame(size)
        top, left = max(window.top, 0), max(window.left, 0)
        bottom, right = min(window.top + window.height, size[0]), min(window.left + window.width, size[1])
        return Window(top, left, bottom - top, right - left)

    def grid(self, size: Extent) -> Extent:
        """Extent of its window, turned, at the image's own resolution: that of every map in its frame."""
        window = self.frame(size)
        return self._turned((window.height, window.width))

    def extent(self, size: Extent) -> Extent:
        """Extent of the view's image, which SAM's predictor gets: the grid but where the image is resized."""
        return self._turned(self._resized(size))

    def _turned(self, extent: Extent) -> Extent:
        return (extent[1], extent[0]) if self.turns % 2 else extent

    def _resized(self, size: Extent) -> Extent:
        window = self.frame(size)
        if self.window != WHOLE or self.scale == 1:
            return window.height, window.width
        return max(1, round(window.height * self.scale)), max(1, round(window.width * self.scale))

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """The view's image.

        image: (y, x, channel=3) uint8 RGB of true extent. Returns (y, x, channel) uint8 of `extent`.
        """
        size = (image.shape[0], image.shape[1])
        cut = np.stack([_cut(image[..., c], self.frame(size), NEUTRAL[c]) for c in range(3)], -1)
        height, width = self._resized(size)
        if cut.shape[:2] != (height, width):
            cut = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(self._orient(cut, (0, 1)))

    def apply_map(self, values: np.ndarray, fill: float = 0) -> np.ndarray:
        """Maps of the image as this view sees them, on `grid`; exact, nothing is resampled.

        values: (..., y, x) of any dtype in the image's frame; fill: the value outside the image.
        """
        size = (values.shape[-2], values.shape[-1])
        return self._orient(_cut(values, self.frame(size), fill), (-2, -1))

    def invert_map(self, values: np.ndarray, size: Extent, fill: float = 255) -> np.ndarray:
        """Maps of this view, back in the image's frame: the inverse of `apply_map`.

        values: (..., y, x) of any dtype on `grid`; size: the image's extent; fill: the value outside the view.
        Returns (..., height, width). Raises ValueError where `values` has another extent.
        """
        shown = self.shown(size)
        return _cut(self.upright(values, size), Window(-shown.top, -shown.left, *size), fill)

    def upright(self, values: np.ndarray, size: Extent) -> np.ndarray:
        """Maps of this view, turned back and cut to what it shows of the image; nothing is copied.

        values and errors as of `invert_map`. Returns (..., rows, columns) of `shown`.
        """
        if values.shape[-2:] != self.grid(size):
            raise ValueError(
                f"{self}: a map of {values.shape[-2:]}, expected {self.grid(size)} for an image of {size}"
            )
        upright = np.rot90(values, -self.turns, (-2, -1))
        upright = upright[..., ::-1] if self.flip else upright
        window, shown = self.frame(size), self.shown(size)
        part = Window(shown.top - window.top, shown.left - window.left, shown.height, shown.width)
        return upright[..., *part.slices]

    def _orient(self, values: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        mirrored = np.flip(values, axes[1]) if self.flip else values
        return np.asarray(np.rot90(mirrored, self.turns, axes))

    def apply_points(self, points: np.ndarray, size: Extent) -> np.ndarray:
        """Points of the image in the frame of the view's image.

        points: (..., 2) x, y. Returns (..., 2) float64; a point outside the window stays outside the view.
        """
        window = self.frame(size)
        x, y = points[..., 0] - float(window.left), points[..., 1] - float(window.top)
        x = window.width - 1 - x if self.flip else x
        width, height = window.width, window.height
        for _ in range(self.turns):
            x, y, width, height = y, width - 1 - x, height, width
        return _rescaled(np.stack([x, y], -1), self.grid(size), self.extent(size))

    def invert_points(self, points: np.ndarray, size: Extent) -> np.ndarray:
        """Points of the view's image in the image's frame: the inverse of `apply_points`."""
        at_grid = _rescaled(points, self.extent(size), self.grid(size))
        x, y = at_grid[..., 0], at_grid[..., 1]
        height, width = self.grid(size)
        for _ in range(self.turns):
            x, y, width, height = height - 1 - y, x, height, width
        window = self.frame(size)
        x = window.width - 1 - x if self.flip else x
        return np.stack([x + window.left, y + window.top], -1)

    def apply_box(self, box: np.ndarray, size: Extent) -> np.ndarray:
        """A box of the image in the frame of the view's image, corners sorted anew, clipped to the view.

        box: (..., corner=4) x0, y0, x1, y1. Returns the same shape, float64.
        """
        corners = self.apply_points(box.reshape(*box.shape[:-1], 2, 2), size)
        height, width = self.extent(size)
        low, high = corners.min(-2), corners.max(-2)
        return np.asarray(np.clip(np.concatenate([low, high], -1), 0, [width - 1, height - 1] * 2))


def _cut(values: np.ndarray, window: Window, fill: float) -> np.ndarray:
    """The window of (..., y, x) maps; `fill` where it reaches beyond them."""
    height, width = values.shape[-2:]
    top, left = max(window.top, 0), max(window.left, 0)
    bottom = min(window.top + window.height, height)
    right = min(window.left + window.width, width)
    inside = values[..., top:bottom, left:right]
    if inside.shape[-2:] == (window.height, window.width):
        return inside
    out = np.full((*values.shape[:-2], window.height, window.width), fill, values.dtype)
    y, x = top - window.top, left - window.left
    out[..., y : y + inside.shape[-2], x : x + inside.shape[-1]] = inside
    return out


def _rescaled(points: np.ndarray, before: Extent, after: Extent) -> np.ndarray:
    """Points (..., 2) of an image resized from one extent to another: x' = (x + ½)·W'/W − ½."""
    if before == after:
        return points
    ratio = np.array([after[1] / before[1], after[0] / before[0]])
    return np.asarray((points + 0.5) * ratio - 0.5)
