"""Stage prompt: what SAM is asked about each defect, from the user's marks or from the CAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from storage.arrays import ArraySpec
from tasks.augment import image_rng
from tasks.stage import Arrays, Stage
from tasks.views import Extent, View

CANDIDATES = 12
"""Pixels drawn per further point, of which the one farthest from the points before is taken."""
MOST = 4096
"""Pixels to draw from; of larger regions that many are drawn first, so that large images cost no more."""
SEEN = 0.1
"""Least share of a piece that a view must show to be asked about it."""


@dataclass(frozen=True)
class Piece:
    """One connected piece of a defect, cut out at its bounding box.

    region: (y, x) bool, its pixels; top, left: where the cut starts in the image, in pixels.
    bounded: whether the region's box is the defect's; not of one that the user marked. marks: (pixel, 2) int x, y in the
    image's frame, what the user marked of it, if anything.
    """

    region: np.ndarray
    top: int
    left: int
    bounded: bool = True
    marks: np.ndarray | None = None

    @property
    def box(self) -> np.ndarray:
        """(corner=4,) float32 x0, y0, x1, y1: centres of the outermost pixels; NaN where not bounded."""
        height, width = self.region.shape
        corners = [self.left, self.top, self.left + width - 1, self.top + height - 1]
        return np.array(corners if self.bounded else [np.nan] * 4, np.float32)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that `region` covers."""
        height, width = self.region.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def core(self) -> np.ndarray:
        """Pixels round the maxima of the distance transform: (pixel, 2) int x, y in the image's frame."""
        padded = np.pad(self.region, 1).astype(np.uint8)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        return self._pixels(depth >= 0.5 * depth.max())

    @property
    def pixels(self) -> np.ndarray:
        """All its pixels: (pixel, 2) int x, y in the image's frame."""
        return self._pixels(self.region)

    def _pixels(self, chosen: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(chosen)
        return np.stack([x + self.left, y + self.top], -1)


def prompt(
    *,
    cam: np.ndarray,
    annotation: np.ndarray,
    slot_class: np.ndarray,
    size: np.ndarray,
    view: np.ndarray,
    sha256: np.ndarray,
    low: float,
    high: float,
    pieces: int,
    positives: int,
    negatives: int,
    min_area: float,
    seed: int,
) -> Arrays:
    """Points for every piece of every slot, drawn anew in each view, and the pieces' boxes.

    cam: (image, slot, y, x) float16 in [0, 1]; annotation: (image, y, x) uint8 label map, 255 unmarked.
    slot_class: (image, slot) uint8, 0 unused; size: (image, extent=2) uint16; view: (image, view, 4) float32.
    sha256: (image, byte=32) uint8, from which the points are drawn.
    low, high: CAM values up to which a pixel is background, from which it is foreground; `cam_level` says
    what happens where no pixel gets there. pieces: most pieces a slot, largest first. positives, negatives:
    points a piece and view, 8 together at most; fewer where a piece has fewer pixels. min_area: share of the
    image below which a CAM piece is not asked about, unless it is the largest. seed: of the draw.
    Returns arrays as declared in STAGE; NaN where a view does not show a piece. Raises ValueError for
    parameters out of range.
    """
    if not 0 <= low < high <= 1 or not 1 <= positives <= positives + negatives <= 8 or negatives < 0:
        raise ValueError(
            f"prompt: low={low}, high={high}, positives={positives}, negatives={negatives}; expected"
            " 0 <= low < high <= 1, at least 1 positive and at most 8 points a piece"
        )
    count, slots = slot_class.shape
    dropped = np.zeros((count, slots), np.uint16)
    asked: dict[tuple[int, int], list[tuple[Piece, np.ndarray]]] = {}
    for n, s in np.argwhere(slot_class > 0).tolist():
        height, width = size[n].tolist()
        heat = cam[n, s, :height, :width].astype(np.float32)
        marks, k = annotation[n, :height, :width], int(slot_class[n, s])
        found, background = find_pieces(heat, marks, k, low=low, high=high, min_area=min_area)
        dropped[n, s] = max(0, len(found) - pieces)
        rng, views = image_rng(seed, sha256[n], k), [View.of(row) for row in view[n]]
        asked[n, s] = [
            (piece, draw_points(rng, piece, background, views, (height, width), positives, negatives))
            for piece in found[:pieces]
        ]
    return {**_stacked(asked, (count, slots, view.shape[1]), positives + negatives), "dropped": dropped}


def _stacked(
    asked: dict[tuple[int, int], list[tuple[Piece, np.ndarray]]], shape: tuple[int, int, int], points: int
) -> Arrays:
    """Arrays `point` and `box` of a block, NaN where unused. shape: images, slots, views."""
    most = max([1, *map(len, asked.values())])
    point = np.full((*shape[:2], most, shape[2], points, 3), np.nan, np.float32)
    box = np.full((*shape[:2], most, 4), np.nan, np.float32)
    for (n, s), pieces in asked.items():
        for p, (piece, drawn) in enumerate(pieces):
            point[n, s, p], box[n, s, p] = drawn, piece.box
    return {"point": point, "box": box}


def cam_level(heat: np.ndarray, threshold: float, high: float) -> float:
    """A threshold of the CAM for this image: as given, or relative to its maximum where that is below `high`.

    A label says that the class is there, so a weak CAM (a doubtful image) is not left without a prompt: its
    thresholds sink in proportion, and its strongest place is asked about.
    heat: (y, x) float32 in [0, 1].
    """
    peak = float(heat.max())
    return threshold if peak >= high else threshold * peak


def find_pieces(
    heat: np.ndarray, marks: np.ndarray, k: int, *, low: float, high: float, min_area: float
) -> tuple[list[Piece], np.ndarray]:
    """Connected pieces of one class, largest first, and where its background is.

    Marks of the class, if there are any, each with what the CAM says of it (see `marked_pieces`), else the CAM:
    components of at least `high`. Background is what the user marked as such, else where the CAM is at most `low`; each
    threshold as by `cam_level`.
    heat: (y, x) float32 CAM of the class; marks: (y, x) uint8 label map, 255 unmarked; k: the class.
    Returns pieces, none only where the CAM is zero everywhere, and (y, x) bool background.
    """
    background = marks == 0
    if not background.any():
        background = (heat <= cam_level(heat, low, high)) & (marks != k)
    if (marks == k).any():
        strong = heat >= cam_level(heat, high, high) if heat.max() > 0 else np.zeros(heat.shape, bool)
        return marked_pieces(marks == k, strong), background
    if not heat.max() > 0:
        return [], background
    found = components(heat >= cam_level(heat, high, high))
    large = [piece for piece in found if piece.region.sum() >= min_area * heat.size]
    return large or found[:1], background


def marked_pieces(marks: np.ndarray, strong: np.ndarray) -> list[Piece]:
    """A piece for each connected mark, largest first: what to ask is the user's word, how far it reaches the CAM's.

    marks: (y, x) bool; strong: (y, x) bool, where the CAM sees the class. Of a mark upon a component of `strong` all of that
    component is asked about, of one with several marks each the pixels that are nearest; without a box, as the CAM may
    see no more than a part. A component without a mark is not asked about, and a mark beside all of them is alone.
    """
    index = cv2.connectedComponents(strong.astype(np.uint8), connectivity=8)[1]
    nearest = cv2.distanceTransformWithLabels(
        (~marks).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP
    )[1]
    found = []
    for mark in components(marks, bounded=False):
        x, y = mark.pixels.T
        region = marks & (nearest == nearest[y[0], x[0]])
        touched = np.setdiff1d(index[y, x], [0])
        if len(touched):
            region |= np.isin(index, touched) & (nearest == nearest[y[0], x[0]])
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        top, left = int(rows[0]), int(columns[0])
        cut = region[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        found.append(Piece(cut, top, left, bounded=False, marks=mark.pixels))
    return sorted(found, key=lambda piece: -int(piece.region.sum()))


def components(region: np.ndarray, bounded: bool = True) -> list[Piece]:
    """The 8-connected components of a (y, x) bool map, largest first; equal ones in reading order."""
    count, index, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    pieces = []
    for i in sorted(range(1, count), key=lambda i: -int(stats[i, cv2.CC_STAT_AREA])):
        left, top, width, height = stats[i, : cv2.CC_STAT_AREA].tolist()
        cut = index[top : top + height, left : left + width] == i
        pieces.append(Piece(cut, top, left, bounded))
    return pieces


def draw_points(
    rng: np.random.Generator,
    piece: Piece,
    background: np.ndarray,
    views: Sequence[View],
    size: Extent,
    positives: int,
    negatives: int,
) -> np.ndarray:
    """Points upon and beside a piece, drawn anew for each view, so that a wrong prompt shows as disagreement.

    background: (y, x) bool, where negatives may lie; the half of them are near the piece.
    Returns (view, point, 3) float32: x, y in the view's frame, label 1 or 0; positives first, NaN unused; all
    NaN where a view shows less than a tenth of the piece.
    """
    out = np.full((len(views), positives + negatives, 3), np.nan, np.float32)
    core, pixels, beside = (
        _few(rng, each) for each in (piece.core, piece.pixels, _beside(piece, background))
    )
    marks = pixels[:0]
    if piece.marks is not None and len(piece.marks) < len(piece.pixels):  # the rest is the CAM's
        marks = _few(rng, piece.marks)
    for j, view in enumerate(views):
        seen = _seen(pixels, view, size)
        if len(seen) < max(1, SEEN * len(pixels)):
            continue
        deep = _seen(core, view, size)
        # of what is marked and seen by the CAM, the half of the points lies upon marks: they are sure
        yes = spread(rng, _seen(marks, view, size), math.ceil(positives / 2))
        yes = np.concatenate([yes, spread(rng, deep if len(deep) else seen, positives - len(yes))])
        no = spread(rng, _seen(beside, view, size), negatives)
        placed = view.apply_points(np.concatenate([yes, no]), size)
        out[j, : len(placed), :2] = placed
        out[j, : len(placed), 2] = [1] * len(yes) + [0] * len(no)
    return out


def spread(rng: np.random.Generator, pixels: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` different pixels, random but apart: each the farthest, of a few drawn, from those before.

    pixels: (pixel, 2) int x, y. Returns (point, 2).
    """
    if not len(pixels) or not count:
        return pixels[:0]
    chosen = pixels[rng.integers(len(pixels), size=1)]
    for _ in range(count - 1):
        drawn = pixels[rng.integers(len(pixels), size=CANDIDATES)]
        gap = ((drawn[:, None] - chosen[None]) ** 2).sum(-1).min(1)  # (candidate,)
        if gap.max() == 0:
            break
        chosen = np.concatenate([chosen, drawn[[gap.argmax()]]])
    return chosen


def _few(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    return pixels if len(pixels) <= MOST else pixels[rng.integers(len(pixels), size=MOST)]


def _seen(pixels: np.ndarray, view: View, size: Extent) -> np.ndarray:
    """Those of (pixel, 2) x, y that lie in the view's window."""
    window = view.frame(size)
    if window.height >= size[0] and window.width >= size[1]:
        return pixels
    x, y = pixels[:, 0] - window.left, pixels[:, 1] - window.top
    return pixels[(x >= 0) & (y >= 0) & (x < window.width) & (y < window.height)]


def _beside(piece: Piece, background: np.ndarray) -> np.ndarray:
    """Background pixels round the piece, (pixel, 2) int x, y; any of the image where it has none there."""
    height, width = piece.region.shape
    reach_y, reach_x = 8 + height, 8 + width
    top, left = max(0, piece.top - reach_y), max(0, piece.left - reach_x)
    y, x = np.nonzero(background[top : piece.top + height + reach_y, left : piece.left + width + reach_x])
    if not len(y):
        y, x = np.nonzero(background)
        return np.stack([x, y], -1)
    return np.stack([x + left, y + top], -1)


STAGE = Stage(
    name="prompt",
    version=2,
    function=prompt,
    reads=("cam", "annotation", "slot_class", "size", "view", "sha256"),
    writes=(
        ArraySpec(
            name="point",
            dims=("image", "slot", "piece", "view", "point", "coordinate"),
            dtype="float32",
            kind="coordinate",
            units="pixel",
            description="x, y in the view's frame, then 1 on the defect, 0 beside it; NaN unused",
        ),
        ArraySpec(
            name="box",
            dims=("image", "slot", "piece", "corner"),
            dtype="float32",
            kind="coordinate",
            units="pixel",
            description="x0, y0, x1, y1 of the piece in the image's frame; NaN where unused or marked",
        ),
        ArraySpec(
            name="dropped",
            dims=("image", "slot"),
            dtype="uint16",
            kind="number",
            description="pieces beyond the limit, about which SAM was not asked",
        ),
    ),
    config=("prompt",),
    summary="points and a box for every piece, from marks or from the CAM",
)
