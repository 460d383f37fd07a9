"""SAM's prompt encoder and mask decoder over the views of one image, as the official predictor runs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tasks.augment import input_extent
from tasks.views import Extent, View

if TYPE_CHECKING:
    import torch
    from segment_anything.modeling import Sam

SMALL = 512
"""Side in pixels up to which masks are resized by two matrix products instead of pixel by pixel."""


@dataclass(frozen=True)
class Prompt:
    """What SAM is asked in one view about one piece.

    points: (point, 3) float x, y in the view's frame and label 1 or 0, none unused.
    box: (corner=4,) float in the view's frame, or None. dense: (4h, 4w) float32 logits in SAM's frame of low
    resolution, or None.
    """

    slot: int
    piece: int
    view: int
    points: np.ndarray
    box: np.ndarray | None = None
    dense: np.ndarray | None = None


@dataclass(frozen=True)
class Decoded:
    """SAM's masks for one prompt: logits (choice, 4h, 4w) and predicted IoU (choice,), float32."""

    logits: torch.Tensor
    iou: np.ndarray


def soft_mask(model: Sam, view: View, heat: np.ndarray) -> np.ndarray:
    """A CAM as SAM's mask prompt: logits, as the low-resolution masks are, in the frame of SAM's input."""
    rows, columns = model.prompt_encoder.mask_input_size
    side = model.image_encoder.img_size
    height, width = input_extent(view.extent((heat.shape[0], heat.shape[1])), side)
    part = max(1, round(height * rows / side)), max(1, round(width * columns / side))
    seen = np.ascontiguousarray(view.apply_map(heat))
    logits = np.full((rows, columns), -5, np.float32)
    # 10 (c − ½): the CAM's middle is undecided, its ends are as sure as SAM's own logits
    logits[: part[0], : part[1]] = 10 * cv2.resize(seen, part[::-1], interpolation=cv2.INTER_AREA) - 5
    return logits


def decode(
    model: Sam,
    features: torch.Tensor,
    prompts: Sequence[Prompt],
    extents: Sequence[Extent],
    *,
    multimask: bool = True,
    batch: int = 32,
) -> list[Decoded]:
    """SAM's answers to the prompts of one image, in their order.

    features: (view, d, h, w) float32, SAM's embedding of each view; prompts: in any order; extents: of each
    view's image. multimask: SAM's three masks, or its single one; batch: most prompts a call. Only prompts with
    as many points, and all or none with a box and a soft mask, share a call: padding would change the answer.
    """
    side = model.image_encoder.img_size
    placed = [in_input_frame(prompt, extents[prompt.view], side) for prompt in prompts]
    groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[len(prompt.points), prompt.box is None, prompt.dense is None].append(i)
    answers: dict[int, Decoded] = {}
    for group in groups.values():
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            answers |= zip(part, _decode(model, features, [placed[i] for i in part], multimask), strict=True)
    return [answers[i] for i in range(len(prompts))]


def _decode(model: Sam, features: torch.Tensor, prompts: Sequence[Prompt], multimask: bool) -> list[Decoded]:
    """One call of the decoder, for prompts of equal shape."""
    import torch

    from models.sam_decoder import answer_prompts

    points = torch.from_numpy(np.stack([prompt.points for prompt in prompts])).float()  # (g, point, 3)
    boxes = [prompt.box for prompt in prompts if prompt.box is not None]
    masks = [prompt.dense for prompt in prompts if prompt.dense is not None]
    logits, iou = answer_prompts(
        model,
        features,
        torch.tensor([prompt.view for prompt in prompts], device=model.device),
        (points[..., :2].to(model.device), points[..., 2].int().to(model.device)),
        torch.from_numpy(np.stack(boxes)).float().to(model.device) if boxes else None,
        torch.from_numpy(np.stack(masks))[:, None].to(model.device) if masks else None,
        multimask=multimask,
    )
    return [Decoded(a, b) for a, b in zip(logits, iou.cpu().numpy(), strict=True)]


def in_input_frame(prompt: Prompt, extent: Extent, side: int) -> Prompt:
    """A prompt of a view's frame in the frame of SAM's input, scaled as the official predictor does it.

    extent: of the view's image; side: of SAM's input, in pixels. The predictor multiplies by W'/W and leaves
    out the half pixel; so do we, for its masks are to be ours.
    """
    height, width = input_extent(extent, side)
    ratio = np.array([width / extent[1], height / extent[0]])
    points = prompt.points.astype(np.float64)
    points[:, :2] *= ratio
    box = None if prompt.box is None else np.asarray(prompt.box, np.float64) * np.tile(ratio, 2)
    return replace(prompt, points=points, box=box)


def view_masks(model: Sam, logits: torch.Tensor, view: View, size: Extent) -> np.ndarray:
    """Masks in a view's frame, at the image's own resolution: logits resized as SAM does it, then cut at once.

    logits: (choice, 4h, 4w) float32; size: the image's extent. Returns (choice, y, x) bool on the view's grid.
    """
    import torch

    side, grid = model.image_encoder.img_size, view.grid(size)
    inner = input_extent(view.extent(size), side)
    with torch.inference_mode():
        if max(grid) > SMALL:
            full = model.postprocess_masks(logits[None], inner, grid)[0]  # (choice, y, x)
        else:
            rows, columns = (
                _resize(logits.shape[1 + axis], side, inner[axis], grid[axis], logits.device)
                for axis in (0, 1)
            )
            full = rows @ logits @ columns.T
        return np.asarray((full > model.mask_threshold).cpu().numpy())


@lru_cache(maxsize=128)
def _resize(low: int, side: int, inner: int, target: int, device: torch.device) -> torch.Tensor:
    """One axis of SAM's way from a mask's resolution to an image's, as a matrix: (target, low) float32.

    Up to the input's `side`, cut to the `inner` pixels that the image fills, then to `target` pixels.
    """
    import torch
    from torch.nn import functional

    unit = torch.eye(low, device=device)[None]  # (1, low, low)
    wide = functional.interpolate(unit, side, mode="linear", align_corners=False)[..., :inner]
    return functional.interpolate(wide, target, mode="linear", align_corners=False)[0].T.contiguous()
