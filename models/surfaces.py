"""Procedural surface images with exact instance masks, all from a seed: what `tiny` SAM learns from."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.defects import KINDS, Mask, Style, draw_style, outline, paint
from models.textures import Field, Random, bare_surface, surface_angle

__all__ = ["KINDS", "Surface", "generate"]

SMALLEST_PIECE = 4  # pixels; less than this nobody could point at


@dataclass(frozen=True)
class Surface:
    """One procedural image.

    image: (y, x, 3) uint8 RGB; instances: (n, y, x) bool, one exact mask a piece, disjoint and apart;
    kinds: (n,) uint8, index into KINDS. n may be 0.
    """

    image: NDArray[np.uint8]
    instances: Mask
    kinds: NDArray[np.uint8]


def generate(
    seed: int,
    side: int = 128,
    *,
    size: tuple[int, int] | None = None,
    kind: str | None = None,
    defects: int | None = None,
) -> Surface:
    """Draws one surface with its defects; the same arguments give the same bytes.

    seed: non-negative. side: pixels of a square image; size: (height, width), wins over side.
    kind: draw pieces of this kind only (one of KINDS), as in sets with one label an image; None: the seed
    chooses one kind (most images) or several. defects: how many pieces to try for (0: a good surface); None:
    the seed chooses. Fewer are drawn where there is no free room.
    Raises ValueError for an unknown kind, a size below 16 or a negative number of defects.
    """
    shape = size or (side, side)
    _check(shape, kind, defects)
    rng = np.random.default_rng(seed)
    angle = surface_angle(rng)
    grey, roughness = bare_surface(rng, shape, angle)
    wanted = _wanted(rng, kind, defects)
    styles = {k: draw_style(rng, k, shape, angle, roughness) for k in sorted(set(wanted))}
    masks = _place(rng, shape, wanted, styles)
    for name, mask in masks:
        paint(rng, grey, mask, name, styles[name])
    stack = np.stack([m for _, m in masks]) if masks else np.zeros((0, *shape), bool)
    kinds = np.array([KINDS.index(name) for name, _ in masks], np.uint8)
    return Surface(_camera(rng, grey), stack, kinds)


def _check(shape: tuple[int, int], kind: str | None, defects: int | None) -> None:
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not a kind of defect; choose one of {', '.join(KINDS)}")
    if min(shape) < 16:
        raise ValueError(
            f"size {shape[0]} x {shape[1]} is too small for a surface; give 16 pixels or more a side"
        )
    if defects is not None and defects < 0:
        raise ValueError(f"defects is {defects}; give 0 for a good surface, or a positive number")


def _wanted(rng: Random, kind: str | None, defects: int | None) -> list[str]:
    """The kinds of the pieces to draw, one entry a piece."""
    # long kinds come in few pieces, small kinds may come in swarms
    mean = {"blob": 3.0, "ellipse": 3.0, "band": 0.8, "scratch": 2.5, "dent": 1.5}
    usual = kind or str(rng.choice(KINDS, p=(0.32, 0.12, 0.16, 0.26, 0.14)))
    mixed = kind is None and rng.random() < 0.3
    count = 1 + int(rng.poisson(mean[usual])) if defects is None else defects
    if defects is None and kind is None and rng.random() < 0.03:
        count = 0
    if not mixed:
        return [usual] * count
    return [usual if rng.random() < 0.6 else str(rng.choice(KINDS)) for _ in range(count)]


def _place(
    rng: Random, shape: tuple[int, int], wanted: list[str], styles: dict[str, Style]
) -> list[tuple[str, Mask]]:
    """Outlines that keep a pixel or more apart, and that together leave most of the surface free."""
    taken = np.zeros(shape, bool)
    placed: list[tuple[str, Mask]] = []
    for name in wanted:
        for _ in range(4):
            mask = outline(rng, name, shape, styles[name])
            wide = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            fits = not (wide & taken).any() and (taken | mask).mean() < 0.5
            if fits and SMALLEST_PIECE <= mask.sum() < 0.35 * mask.size:
                placed.append((name, mask))
                taken |= wide
                break
    return placed


def _camera(rng: Random, grey: Field) -> NDArray[np.uint8]:
    """Focus, sensor noise, exposure and tint: (y, x) float32 grey to (y, x, 3) uint8 RGB."""
    if rng.random() < 0.3:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 0.8)), np.float32)
    grey = grey + np.float32(rng.uniform(0.3, 3.0)) * rng.standard_normal(grey.shape, dtype=np.float32)
    if rng.random() < 0.18:  # overexposed, as hot-rolled strip often is
        grey = grey * np.float32(rng.uniform(1.0, np.clip(240 / max(float(grey.mean()), 1.0), 1.2, 2.5)))
    tint = np.ones(3, np.float32)
    if rng.random() < 0.3:
        tint = rng.uniform(0.75, 1.1, 3).astype(np.float32)
        tint[2] *= np.float32(rng.uniform(1.0, 1.5))  # towards the blue of protective film
    colour: NDArray[np.uint8] = np.clip(grey[..., None] * tint + 0.5, 0, 255).astype(np.uint8)
    return colour  # (y, x, 3)
