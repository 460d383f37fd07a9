"""Stage mask: SAM's answer in every view, one choice of mask per piece, back in the image's frame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from storage.arrays import ArraySpec
from storage.streams import Streamed
from tasks.decode import Decoded, Prompt, decode, soft_mask, view_masks
from tasks.features import mean_features
from tasks.stage import Arrays, Stage, counted
from tasks.views import Extent, View, Window

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

NONE = 255
"""No vote; no choice."""
DILATION = 1 / 64
"""How far a piece is dilated before masks are compared with its area, as a share of the image's longest side:
about one patch of the ViT at its usual inputs, the accuracy of a CAM's border."""


def mask(
    *,
    embedding: np.ndarray | Streamed,
    view: np.ndarray,
    point: np.ndarray,
    box: np.ndarray,
    cam: np.ndarray,
    slot_class: np.ndarray,
    size: np.ndarray,
    boxes: bool,
    dense: bool,
    multimask: bool,
    low: float,
    margin: float,
    growth: float,
    batch: int,
    model: Sam,
    precision: str,
) -> Arrays:
    """Decode every prompt, choose one of SAM's masks per piece, and gather the votes and features of the views.

    embedding: (image, view, d, h, w) float16, taken an image at a time; view: (image, view, 4) float32; point, box: as stage prompt
    writes them; cam: (image, slot, y, x) float16 in [0, 1]; slot_class: (image, slot) uint8, 0 unused; size:
    (image, extent=2) uint16.
    boxes, dense: whether SAM is given the piece's box, and the CAM as a soft mask. multimask: three masks to
    choose from, or SAM's single one. low: CAM value from which a pixel may belong to a piece. margin: what is
    seen as the piece's neighbourhood, in lengths of its box on each side. growth: a mask of more than that
    many times the dilated piece is rejected. batch: most prompts a call of the decoder.
    model: SAM in evaluation mode; precision: of the encoder's arithmetic: the decoder, a small part of the
    work, always calculates in float32.
    Returns arrays as declared in STAGE.
    """
    import torch

    images, slots, pieces, views = point.shape[:4]
    out: Arrays = {
        "mask": np.full((images, slots, views, *cam.shape[2:]), NONE, np.uint8),
        "iou": np.full((images, slots, pieces, views), np.nan, np.float32),
        "choice": np.full((images, slots, pieces), NONE, np.uint8),
        "feature": np.zeros((images, *embedding.shape[2:]), np.float16),
    }
    for n in counted(images):
        height, width = size[n].tolist()
        heat = cam[n, :, :height, :width].astype(np.float32)
        seen = [View.of(row) for row in view[n]]
        prompts = list(
            image_prompts(model, point[n], box[n], heat, seen, slot_class[n], boxes=boxes, dense=dense)
        )
        features = torch.from_numpy(embedding[n]).to(model.device).float()
        out["feature"][n] = mean_features(features, seen, (height, width))
        extents = [each.extent((height, width)) for each in seen]
        decoded = decode(model, features, prompts, extents, multimask=multimask, batch=batch)
        judge = Judge(model, seen, (height, width), low, margin, growth)
        for s in sorted({prompt.slot for prompt in prompts}):
            answers = [(p, d) for p, d in zip(prompts, decoded, strict=True) if p.slot == s]
            votes = out["mask"][n, s, :, :height, :width]
            out["iou"][n, s], out["choice"][n, s] = judge.slot(answers, box[n, s], heat[s], votes)
    return out


def image_prompts(
    model: Sam,
    point: np.ndarray,
    box: np.ndarray,
    heat: np.ndarray,
    views: Sequence[View],
    slot_class: np.ndarray,
    *,
    boxes: bool,
    dense: bool,
) -> Iterator[Prompt]:
    """All prompts of one image.

    point: (slot, piece, view, point, 3); box: (slot, piece, 4) in the image's frame; heat: (slot, y, x)
    float32 CAM; views: (view,); slot_class: (slot,). boxes, dense: as in `mask`.
    """
    size = (heat.shape[1], heat.shape[2])
    used = np.isfinite(point).all(-1)  # (slot, piece, view, point)
    for s, p, j in np.argwhere(used.any(-1)).tolist():
        if slot_class[s]:
            corners = views[j].apply_box(box[s, p], size) if boxes and np.isfinite(box[s, p]).all() else None
            soft = soft_mask(model, views[j], heat[s]) if dense else None
            yield Prompt(s, p, j, point[s, p, j][used[s, p, j]], corners, soft)


Answer = tuple[Prompt, Decoded]


@dataclass(frozen=True)
class Found:
    """What a view's answer about a piece shows of the image.

    view: its index; window: the part of the image that it shows; packed: (choice, rows, columns / 8) uint8, SAM's
    masks there as bits; area: (choice,) their pixels over those of the dilated piece there; agreement: (choice,)
    with the CAM; iou: (choice,), as SAM predicts it.
    """

    view: int
    window: Window
    packed: np.ndarray
    area: np.ndarray
    agreement: np.ndarray
    iou: np.ndarray

    def mask(self, choice: int) -> np.ndarray:
        """(rows, columns) bool, in the window."""
        return np.unpackbits(self.packed[choice], axis=-1, count=self.window.width).view(bool)


@dataclass(frozen=True)
class Judge:
    """Chooses among SAM's masks of one image, and counts them as votes.

    model: SAM, for its way of resizing logits; views: of the image; size: its extent; low, margin, growth: as
    in `mask`.
    """

    model: Sam
    views: Sequence[View]
    size: Extent
    low: float
    margin: float
    growth: float

    def slot(
        self, answers: Sequence[Answer], boxes: np.ndarray, heat: np.ndarray, votes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Votes for one slot: the union of its pieces' masks, in each view.

        answers: all of the slot; boxes: (piece, corner=4) float32, NaN where not bounded; heat: (y, x) float32.
        votes: (view, y, x) uint8, all 255 (no vote), into which 0 and 1 are written.
        Returns predicted IoU (piece, view) float32, NaN unused; choice (piece,) uint8, 255 unused or rejected.
        """
        for j, view in enumerate(self.views):
            votes[j][view.shown(self.size).slices] = 0
        iou = np.full((len(boxes), len(self.views)), np.nan, np.float32)
        choice = np.full(len(boxes), NONE, np.uint8)
        for p in sorted({prompt.piece for prompt, _ in answers}):
            asked = [answer for answer in answers if answer[0].piece == p]
            self._silence(votes, boxes[p], [prompt.view for prompt, _ in asked])
            found = self._found(asked, boxes[p], heat)
            chosen = self._choose(found, bounded=bool(np.isfinite(boxes[p]).all()))
            if chosen is not None:
                choice[p] = chosen
                for each in found:
                    votes[each.view][each.window.slices][each.mask(chosen)] = 1
                    iou[p, each.view] = each.iou[chosen]
        return iou, choice

    def _choose(self, found: Sequence[Found], *, bounded: bool) -> int | None:
        """One of SAM's masks of a piece for all views, or flips of the choice would pose as entropy.

        argmax over the choices of the mean over views of predicted IoU × agreement with the CAM. A choice larger
        than `growth` times the dilated piece is out; None where all are. bounded: false for a piece that is only
        marked, which is never rejected: the user has seen it.
        """
        score = np.mean([np.clip(each.iou, 0, 1) * each.agreement for each in found], 0)  # (choice,)
        if bounded:
            score[np.mean([each.area for each in found], 0) > self.growth] = -1
        best = int(score.argmax())
        return best if score[best] >= 0 else None

    def _found(self, asked: Sequence[Answer], box: np.ndarray, heat: np.ndarray) -> list[Found]:
        """SAM's masks of a piece, back in the image's frame, measured and packed one view at a time.

        A marked piece, whose box is NaN, is compared with the whole CAM.
        """
        near, grown = self._near(box, self.margin), self._grown(box, heat)
        found = []
        for prompt, decoded in asked:
            view = self.views[prompt.view]
            window = view.shown(self.size)
            masks = view.upright(view_masks(self.model, decoded.logits, view, self.size), self.size)
            here, there = _common(near, window)
            found.append(
                Found(
                    prompt.view,
                    window,
                    np.packbits(masks, axis=-1),
                    masks.sum((1, 2)) / max(1, int(grown[window.slices].sum())),
                    soft_jaccard(masks[..., *there], heat[here]),
                    decoded.iou,
                )
            )
        return found

    def _grown(self, box: np.ndarray, heat: np.ndarray) -> np.ndarray:
        """The piece in a box, dilated: (y, x) bool."""
        piece = np.zeros(self.size, np.uint8)
        inside = self._near(box, 0)
        piece[inside] = heat[inside] >= self.low * heat.max()
        radius = max(2, round(DILATION * max(self.size)))
        return cv2.dilate(piece, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)) > 0

    def _near(self, box: np.ndarray, margin: float) -> tuple[slice, slice]:
        """Rows and columns of a box, grown by `margin` of its longer side; of all the image where it is NaN."""
        height, width = self.size
        if not np.isfinite(box).all():
            return slice(0, height), slice(0, width)
        x0, y0, x1, y1 = box.tolist()
        reach = margin * (1 + max(x1 - x0, y1 - y0))
        top, left = max(0, math.floor(y0 - reach)), max(0, math.floor(x0 - reach))
        bottom, right = min(height, math.floor(y1 + reach) + 1), min(width, math.floor(x1 + reach) + 1)
        return slice(top, bottom), slice(left, right)

    def _silence(self, votes: np.ndarray, box: np.ndarray, asked: Sequence[int]) -> None:
        """A view that was not asked about a piece, as it shows too little of it, casts no vote in its box."""
        others = [j for j in range(len(self.views)) if j not in asked]
        if others and np.isfinite(box).all():
            part = votes[:, *self._near(box, 0)]
            part[others] = np.where(part[others] == 0, np.uint8(NONE), part[others])


def _common(near: tuple[slice, slice], window: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What two rectangles share: in the image's frame, and within the window."""
    here, there = [], []
    for a, b, start in zip(near, window.slices, (window.top, window.left), strict=True):
        low = max(a.start, b.start)
        high = max(low, min(a.stop, b.stop))
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return (here[0], here[1]), (there[0], there[1])


def soft_jaccard(mask: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Agreement of masks with maps in [0, 1]: sum of minima over sum of maxima; 0 where both are empty.

    mask: (..., y, x) bool; heat: (..., y, x) float32, broadcast to it. Returns (...) float64 in [0, 1].
    """
    common = (mask * heat).sum((-2, -1), dtype=np.float64)
    either = mask.sum((-2, -1)) + heat.sum((-2, -1), dtype=np.float64) - common
    return np.asarray(common / np.maximum(either, 1e-9))


STAGE = Stage(
    name="mask",
    version=4,
    function=mask,
    reads=("embedding", "view", "point", "box", "cam", "slot_class", "size"),
    streamed=frozenset({"embedding"}),
    writes=(
        ArraySpec(
            name="mask",
            dims=("image", "slot", "view", "y", "x"),
            dtype="uint8",
            kind="vote",
            fill=NONE,
            description="SAM's mask of each view in the image's frame: 1 yes, 0 no, 255 no vote",
        ),
        ArraySpec(
            name="iou",
            dims=("image", "slot", "piece", "view"),
            dtype="float32",
            kind="number",
            description="IoU that SAM predicts for the chosen mask; NaN where it was not asked",
        ),
        ArraySpec(
            name="choice",
            dims=("image", "slot", "piece"),
            dtype="uint8",
            kind="number",
            fill=NONE,
            description="which of SAM's masks was taken for all views; 255 none",
        ),
        ArraySpec(
            name="feature",
            dims=("image", "d", "h", "w"),
            dtype="float16",
            kind="embedding",
            description="SAM's embedding in the image's frame, the mean of its views; 0 beyond the image",
        ),
    ),
    config=("mask",),
    model="sam",
    summary="SAM's decoder on every prompt, and one choice of mask per piece",
)
