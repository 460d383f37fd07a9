"""Procedural defects: the outline of one piece, and how it changes the grey values under it."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.textures import Field, Random, fractal, noise, rotated

Mask = NDArray[np.bool_]
KINDS = ("blob", "ellipse", "band", "scratch", "dent")


@dataclass(frozen=True)
class Style:
    """What the pieces of one kind have in common within one image.

    angle: radians, their usual direction; contrast: signed grey values; softness: blur of the edge in
    pixels; grain: standard deviation of their own texture in grey values; scale: pixels per 1/128 of the image's
    shorter side; size: usual half-axis of a piece as a share of the shorter side; aspect: usual elongation.
    stained: blobs have the outlines of a fractal; crumbling: as a share of the edge's width, how far its place is left
    to chance, pixel by pixel; gloss: whether the defect changes by how much the surface reflects, texture and light
    with it, rather than lying on it.
    """

    angle: float
    contrast: float
    softness: float
    grain: float
    scale: float
    size: float
    aspect: float
    stained: bool = False
    crumbling: float = 0.0
    gloss: bool = False


def draw_style(rng: Random, kind: str, shape: tuple[int, int], angle: float, roughness: float) -> Style:
    """Draws what the pieces of one image share.

    kind: one of KINDS; shape: (y, x) pixels; angle: of rolling, radians; roughness: standard deviation of the
    surface's texture in grey values, above which a defect must stand out to be one at all.
    """
    scale = min(shape) / 128
    floor = (10.0 if kind == "scratch" else 8.0) + 1.2 * roughness
    strength = float(np.exp(rng.uniform(np.log(floor), np.log(max(120.0, 2 * floor)))))
    along = angle if rng.random() < 0.6 else float(rng.uniform(0, np.pi))
    return Style(
        angle=along,
        contrast=strength * (1.0 if rng.random() < 0.42 else -1.0),
        softness=float(rng.choice([0.0, rng.uniform(0.4, 1.2), rng.uniform(1.0, 4.0)], p=[0.3, 0.45, 0.25])),
        grain=float(rng.choice([0.0, rng.uniform(0.05, 0.45)])) * strength,
        scale=scale,
        size=float(np.exp(rng.uniform(np.log(0.018), np.log(0.2)))),
        aspect=float(np.exp(rng.exponential(0.6))),
        stained=bool(rng.random() < 0.5),
        crumbling=float(rng.choice([0.0, rng.uniform(0.2, 0.7)], p=[0.65, 0.35])),
        gloss=bool(rng.random() < 0.35),
    )


def _axes(rng: Random, shape: tuple[int, int], style: Style) -> tuple[Field, Field]:
    """Coordinates (u along, v across the piece), each 1 at the end of its half-axis; (y, x) float32."""
    half = min(shape) * style.size * float(np.exp(rng.normal(0, 0.35)))
    aspect = style.aspect * float(np.exp(rng.normal(0, 0.2)))
    long = min(max(half * np.sqrt(aspect), 1.6 * style.scale), 0.5 * max(shape))
    wide = max(half / np.sqrt(aspect), 1.2 * style.scale)
    angle = style.angle + rng.normal(0, 0.12 if aspect > 2 else 0.6)
    cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    y, x = np.indices(shape, dtype=np.float32)
    y, x = y - np.float32(cy), x - np.float32(cx)
    # angle 0 runs along y, as streaks of a surface do
    u = (np.cos(angle) * y + np.sin(angle) * x) / np.float32(long)
    v = (-np.sin(angle) * y + np.cos(angle) * x) / np.float32(wide)
    return np.asarray(u, np.float32), np.asarray(v, np.float32)


def _blob(rng: Random, shape: tuple[int, int], style: Style) -> Mask:
    u, v = _axes(rng, shape, style)
    if style.stained:
        return _stain(rng, shape, style, np.hypot(u, v))
    cell = max(3.0, min(shape) * style.size)
    rough = rng.uniform(0.15, 0.45) * noise(rng, shape, (cell, cell))
    rough = rough + rng.uniform(0.0, 0.2) * noise(rng, shape, (cell / 3, cell / 3))
    inside = np.hypot(u, v) + rough < 1
    return _largest_part(inside & (np.hypot(u, v) < 2))


def _stain(rng: Random, shape: tuple[int, int], style: Style, distance: Field) -> Mask:
    """Where a fractal field lies below a level that falls with the distance from the middle: bays, tongues, holes."""
    cell = max(4.0, min(shape) * style.size * float(rng.uniform(0.7, 2.0)))
    field = fractal(rng, shape, cell, 5, style.aspect if abs(np.sin(style.angle)) < 0.5 else 1 / style.aspect)
    inside = distance + np.float32(rng.uniform(0.3, 0.8)) * field < 1
    if rng.random() < 0.15:  # a ring, as a drop leaves that dries from its rim
        inside &= distance + 0.3 * field > rng.uniform(0.3, 0.7)
    inside = cv2.morphologyEx(np.asarray(inside, np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    return _largest_part(inside & (distance < 2.5))


def _ellipse(rng: Random, shape: tuple[int, int], style: Style) -> Mask:
    u, v = _axes(rng, shape, style)
    return np.asarray(u * u + v * v < 1)


def _band(rng: Random, shape: tuple[int, int], style: Style) -> Mask:
    y, x = np.indices(shape, dtype=np.float32)
    angle = style.angle + rng.normal(0, 0.03)
    cy, cx = rng.uniform(0.05, 0.95) * shape[0], rng.uniform(0.05, 0.95) * shape[1]
    along = np.cos(angle) * (y - cy) + np.sin(angle) * (x - cx)
    across = -np.sin(angle) * (y - cy) + np.cos(angle) * (x - cx)
    width = style.scale * float(np.exp(rng.uniform(np.log(2.0), np.log(13.0))))
    wave = rng.uniform(0, 0.6) * width * noise(rng, shape, (40 * style.scale, 40 * style.scale))
    ragged = rng.uniform(0, 0.25) * width * noise(rng, shape, (4 * style.scale, 4 * style.scale))
    through = rng.random() < 0.6
    ahead, behind = (2.0, 2.0) if through else rng.uniform(0.1, 0.6, 2)
    length = max(shape)
    inside = (np.abs(across + wave) + ragged < width) & (along < ahead * length) & (along > -behind * length)
    return _largest_part(np.asarray(inside))


def _scratch(rng: Random, shape: tuple[int, int], style: Style) -> Mask:
    steps = int(rng.integers(6, 24))
    length = min(shape) * float(np.exp(rng.uniform(np.log(0.12), np.log(1.5))))
    jitter = float(rng.choice([0.0, 0.03, 0.25], p=[0.45, 0.3, 0.25]))  # straight, curved, crack-like
    heading = style.angle + rng.normal(0, 0.1) + np.cumsum(rng.normal(0, jitter, steps))
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1) * (length / steps), 0)  # (step, xy)
    middle = rng.uniform(0.05, 0.95, 2) * (shape[1], shape[0])
    path = path - path.mean(0) + middle
    width = max(1, round(style.scale * rng.choice([1, 1.6, 2.4, 3.6])))
    canvas = np.zeros(shape, np.uint8)
    # sixteenths of a pixel keep slanted lines straight
    cv2.polylines(canvas, [np.round(path * 16).astype(np.int32)], False, 1, width, cv2.LINE_8, 4)
    return _largest_part(canvas > 0)


OUTLINES: dict[str, Callable[[Random, tuple[int, int], Style], Mask]] = {
    "blob": _blob,
    "ellipse": _ellipse,
    "band": _band,
    "scratch": _scratch,
    "dent": _ellipse,
}


def outline(rng: Random, kind: str, shape: tuple[int, int], style: Style) -> Mask:
    """The exact mask of one piece: (y, x) bool, one connected part, perhaps empty if it fell outside."""
    return OUTLINES[kind](rng, shape, style)


def _largest_part(mask: Mask) -> Mask:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def paint(rng: Random, grey: Field, mask: Mask, kind: str, style: Style) -> None:
    """Changes `grey`, (y, x) float32 in [0, 255], in place where `mask`, (y, x) bool, lies."""
    if kind == "dent":
        grey += _shading(rng, mask, style)
        return
    alpha = _alpha(rng, mask, style if kind != "scratch" else None)
    change = style.contrast * float(np.exp(rng.normal(0, 0.15))) * _fading(rng, mask)
    if style.grain:
        turned = rotated(rng, mask.shape, style.angle, (style.scale * rng.uniform(2, 12), style.scale * 2))
        change = change + np.float32(style.grain) * turned
    if style.gloss:
        level = max(float(grey[mask].mean()) if mask.any() else 1.0, 1.0)
        change = np.maximum(change / np.float32(level), -0.9) * np.maximum(grey, 0)
    grey += alpha * change


def _alpha(rng: Random, mask: Mask, style: Style | None) -> Field:
    """How much of the defect each pixel shows: its mask, blurred inwards and outwards alike, or crumbling there."""
    solid = mask.astype(np.float32)
    if style is None or style.softness < 0.3 or mask.sum() < 40 * style.scale**2:
        return solid
    soft = cv2.GaussianBlur(solid, (0, 0), style.softness * style.scale)
    if style.crumbling:
        soft += (
            np.float32(style.crumbling)
            * np.sqrt(np.maximum(soft * (1 - soft), 0))
            * noise(rng, mask.shape, (2, 2))
        )
        soft = np.clip(1.5 * (soft - 0.5) + 0.5, 0, 1)
    return np.asarray(soft, np.float32)


def _fading(rng: Random, mask: Mask) -> Field | float:
    """A piece that is stronger at one end than at the other; (y, x) float32 factor, or 1."""
    if rng.random() < 0.6:
        return 1.0
    y, x = np.indices(mask.shape, dtype=np.float32)
    heading = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(heading) * y + np.sin(heading) * x
    low, high = (float(ramp[mask].min()), float(ramp[mask].max())) if mask.any() else (0.0, 1.0)
    return np.asarray(0.55 + 0.6 * np.clip((ramp - low) / (high - low + 1), 0, 1), np.float32)


def _shading(rng: Random, mask: Mask, style: Style) -> Field:
    """A dent lit from one side: bright where it faces the light, dark where it turns away."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    bowl = cv2.GaussianBlur(np.sqrt(depth), (0, 0), max(0.7, 0.12 * float(depth.max())))
    slope_y, slope_x = np.gradient(bowl)
    light = rng.uniform(0, 2 * np.pi)
    shade = np.cos(light) * slope_y + np.sin(light) * slope_x
    peak = float(np.abs(shade[mask]).max()) if mask.any() else 1.0
    return np.asarray(abs(style.contrast) * shade / (peak + 1e-6) * mask, np.float32)
