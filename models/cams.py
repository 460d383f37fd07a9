"""Class activation maps of one image, from all scales and the mirrored image, before normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.refinements import adapted, refined
from models.start import objectness, standardise
from models.vit import ClassTokenViT

WIDE = 4.5
"""Patches, across; what is narrower is left to objectness, as the patch map blurs it (chosen on procedural sets)."""

COARSE = 0.5
"""Exponent of the patch map beside objectness. On 500 procedural surfaces, with `shared`, P1° came to 64.1 mIoU from 59.9
by the plain product of objectness and each class's own sigmoid; 0 gave 66.9 there, but there objectness is at home. On the
demo's blue film, whose masks were looked at, 1 gave 66.9, 0.5 gave 62.8 and 0 gave 55.6."""

SURE = 0.75
"""Patch map, a sigmoid, from which it alone may call something wide a defect: halfway from knowing nothing to certainty."""


@dataclass(frozen=True)
class Activation:
    """What the network sees in one image.

    cam: (class, y, x) float32 ≥ 0, not normalised, 0 for classes that the label does not name; score: (class,) float32 in [0, 1], probabilities.
    """

    cam: np.ndarray
    score: np.ndarray


def object_map(
    model: ClassTokenViT, image: np.ndarray, precision: str = "float32", known: np.ndarray | None = None
) -> np.ndarray | None:
    """Objectness (y, x) float32 in [0, 1] by the network's start; None where the network has none.

    known: (y, x) float, what the start that bluemask ships finds: taken where the network's own is that one.
    """
    if model.start is None:
        return None
    if known is not None and model.as_shipped:
        return np.asarray(known, np.float32)
    return objectness(model.start, image, precision=precision)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) whose longer side is `side` pixels, in the same proportions, at least 1."""
    ratio = side / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(y, x) or (y, x, channel) at another (height, width): by area where it shrinks, else bilinear."""
    shrinks = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=how))


@dataclass(frozen=True)
class Letterbox:
    """One image as the network sees it: image (1, 3, y, x) float, valid (1, y, x) bool, size without padding."""

    image: Tensor
    valid: Tensor
    object_map: Tensor | None
    size: tuple[int, int]

    def mirrored(self) -> Letterbox:
        """Left and right change places; the padding stays where it was."""
        width = self.size[1]

        def mirror(pixels: Tensor) -> Tensor:
            turned = pixels.clone()
            turned[..., :width] = pixels[..., :width].flip(-1)
            return turned

        objects = None if self.object_map is None else mirror(self.object_map)
        return Letterbox(mirror(self.image), self.valid, objects, self.size)


def letterbox(
    image: np.ndarray, objects: np.ndarray | None, side: int, patch: int, *, square: bool = False
) -> Letterbox:
    """Resizes an image to a longer side of `side`, and pads right and below to whole patches.

    image: (y, x, 3) uint8; objects: (y, x) float32 or None; square: pad to side × side, for batches.
    """
    size = fitted((image.shape[0], image.shape[1]), side)
    full = (side, side) if square else (size[0] + -size[0] % patch, size[1] + -size[1] % patch)
    padding = (0, full[1] - size[1], 0, full[0] - size[0])
    pixels = torch.from_numpy(resized(image, size)).permute(2, 0, 1)[None].float() / 255
    frame = functional.pad(standardise(pixels), padding)
    valid = functional.pad(torch.ones(1, *size, dtype=torch.bool), padding)
    seen = (
        None if objects is None else functional.pad(torch.from_numpy(resized(objects, size))[None], padding)
    )
    return Letterbox(frame, valid, seen, size)


def _one_scale(
    model: ClassTokenViT,
    image: np.ndarray,
    objects: np.ndarray | None,
    side: int,
    flip: bool,
    attend: bool,
    spread: bool,
) -> tuple[Tensor, Tensor]:
    """Patch maps (class, y, x) at the image's size, and the mean probability of the three heads, (class,)."""
    box = letterbox(image, objects, side, model.patch_size)
    views = [box, box.mirrored()] if flip else [box]
    device = next(model.parameters()).device
    seen = None if objects is None else torch.cat([v.object_map for v in views if v.object_map is not None])
    evidence = model(
        torch.cat([view.image for view in views]).to(device),
        torch.cat([view.valid for view in views]).to(device),
        None if seen is None else seen.to(device),
        attention=attend or spread,
    )
    maps = evidence.patch_map
    if evidence.attention is not None:
        maps = refined(maps, evidence.attention, model.classes, attend=attend, spread=spread)
    wide = functional.interpolate(maps, box.image.shape[2:], mode="bilinear", align_corners=False)
    inner = wide[:, :, : box.size[0], : box.size[1]]
    mean = (inner[0] + inner[1].flip(-1)) / 2 if flip else inner[0]
    full = functional.interpolate(mean[None], image.shape[:2], mode="bilinear", align_corners=False)[0]
    heads = torch.stack([evidence.token, evidence.patch, evidence.auxiliary]).float()  # (head, view, class)
    return full, torch.sigmoid(heads).mean((0, 1))


@torch.no_grad()
def activate(
    model: ClassTokenViT,
    image: np.ndarray,
    present: np.ndarray,
    *,
    scales: Sequence[float],
    flip: bool,
    precision: str = "float32",
    attention: bool = False,
    affinity: bool = False,
    adaptive: bool = False,
    known: np.ndarray | None = None,
) -> Activation:
    """The CAM of every class that an image's label names, over all scales and flips, and the scores of all at one scale.

    A score is the mean probability of three heads, and flips, at the scale nearest to 1, at which the network has learned:
    elsewhere a defect looks like one of another class. Where half of the magnetic tiles' labels are predicted from the other
    half, AUROC is 68.8 at 0.5, 85.1 at 1, 81.2 at 1.5 and 83.0 over all three, by the mean of logits; of probabilities 86.3 at 1.

    image: (y, x, 3) uint8; present: (class,) bool, the label; scales: of the network's own side; precision: float32 or bfloat16 (autocast).
    attention, affinity: `attend` and `spread` of `models.refinements.refined`; adaptive: whether `adapted` has the
    last word. known: as of `object_map`.
    Without objectness the CAM is ReLU of the patch logits (eq. 1). With it, it is objectness times the sigmoid of the
    patch logits; or `shared` of both, where these were distilled from it.
    """
    objects = object_map(model, image, precision, known)
    device = next(model.parameters()).device
    maps, scores = [], []
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for scale in scales:
            side = max(1, round(model.side * scale / model.patch_size)) * model.patch_size
            one, score = _one_scale(model, image, objects, side, flip, attention, affinity)
            maps.append(one.float())
            scores.append(score)
    mean = torch.stack(maps).mean(0)
    cam = _located(model, mean, objects, present)
    if adaptive:
        cam[present] = adapted(cam[present], image)
    nearest = min(range(len(scales)), key=lambda n: abs(math.log(scales[n])))
    return Activation(cam.astype(np.float32), scores[nearest].cpu().numpy())


def _located(
    model: ClassTokenViT, logits: Tensor, objects: np.ndarray | None, present: np.ndarray
) -> np.ndarray:
    """(class, y, x) patch logits and (y, x) objectness to CAMs of the same shape, as `activate` says."""
    if objects is None:
        found = functional.relu(logits).cpu().numpy()
    else:
        patches = torch.sigmoid(logits).cpu().numpy()
        found = np.zeros_like(patches)
        if not model.distilled:
            found = patches * objects
        elif present.any():
            found[present] = shared(patches[present], objects, model.side, model.patch_size)
    found[~present] = 0
    return np.asarray(found)


def shared(patches: np.ndarray, objects: np.ndarray, side: int, patch: int) -> np.ndarray:
    """P(defect) among the classes of an image's label: what is a defect there must be one of them.

    patches: (class, y, x) float32 in [0, 1], sigmoids of the patch logits of the label's classes alone; the rest as
    of `joined`, which says where any of them is. A class gets its share of that, by the square of its sigmoid: with
    one class all of it. Returns (class, y, x) float32 in [0, 1].
    """
    squared = np.square(patches)
    return np.asarray(
        joined(patches.max(0), objects, side, patch) * squared / np.maximum(squared.sum(0), 1e-12)
    )


def joined(patches: np.ndarray, objects: np.ndarray, side: int, patch: int) -> np.ndarray:
    """Where a defect is, from what a whole set says coarsely and the image itself says finely.

    patches: (y, x) float32 in [0, 1], sigmoid of the patch logits, which know how the classes look in all images,
    but not finer than a patch. objects: (y, x) float32 in [0, 1], objectness, which has fine borders, but
    may take the larger part of an image for the ground. side, patch: pixels, of the network.
    Both judge the same thing, so the patch map counts less than as a factor (`COARSE`); where it sees something wider
    than `WIDE` patches, all of it far from any object, it decides, fully from `SURE` on, not at all up to a half: a
    sigmoid of a half knows nothing, and a short training gives little else.
    Returns (y, x) float32 in [0, 1].
    """
    size = fitted((patches.shape[0], patches.shape[1]), side)
    wide = _opened(resized(patches, size), round(WIDE * patch))
    near = cv2.dilate(resized(objects, size), np.ones((2 * patch + 1,) * 2, np.uint8))
    wide, near = (resized(each, (patches.shape[0], patches.shape[1])) for each in (wide, near))
    alone = wide * np.clip((wide - 0.5) / (SURE - 0.5), 0, 1) * np.clip(1 - near + objects, 0, 1)
    return np.asarray(np.maximum(patches**COARSE * objects, alone))


def _opened(pixels: np.ndarray, width: int) -> np.ndarray:
    """What is left of a (y, x) map where nothing narrower than `width` pixels counts; as if mirrored outside."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    framed = cv2.copyMakeBorder(pixels, width, width, width, width, cv2.BORDER_REFLECT)
    return np.asarray(cv2.morphologyEx(framed, cv2.MORPH_OPEN, disc)[width:-width, width:-width])


def smoothed_maximum(cam: np.ndarray) -> float:
    """The largest mean over 3×3 pixels of a (y, x) map: one outlier alone does not make it."""
    return float(cv2.blur(np.asarray(cam, np.float32), (3, 3)).max())
