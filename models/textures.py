"""Procedural bare surfaces: noise, brushed and rolled grain, illumination. No defects here."""

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Random = np.random.Generator


def noise(rng: Random, shape: tuple[int, int], cell: tuple[float, float]) -> Field:
    """Band-limited Gaussian noise: white noise on a coarse grid, interpolated bicubically.

    shape: (y, x) pixels. cell: (y, x) distance of grid nodes in pixels; below 1 counts as 1.
    Returns (y, x) float32 of mean about 0 and standard deviation about 1.
    """
    cell_y, cell_x = (min(max(c, 1.0), 4.0 * max(shape)) for c in cell)
    nodes = (int(np.ceil(shape[0] / cell_y)) + 3, int(np.ceil(shape[1] / cell_x)) + 3)
    grid = rng.standard_normal(nodes, dtype=np.float32)
    full = (int(np.ceil(nodes[1] * cell_x)), int(np.ceil(nodes[0] * cell_y)))
    field = cv2.resize(grid, full, interpolation=cv2.INTER_CUBIC)
    # a random offset, or the grid's own lattice would stand at the same pixels in every image
    top = int(rng.integers(0, full[1] - shape[0] + 1))
    left = int(rng.integers(0, full[0] - shape[1] + 1))
    return np.asarray(field[top : top + shape[0], left : left + shape[1]], np.float32)


def fractal(rng: Random, shape: tuple[int, int], cell: float, octaves: int, aspect: float = 1.0) -> Field:
    """1/f noise: octaves of `noise`, each half as wide and half as strong as the one before.

    cell: pixels between nodes of the coarsest octave; aspect: how much longer along y than along x.
    Returns (y, x) float32 of mean about 0 and standard deviation about 1.
    """
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        width = cell / 2**octave
        total += noise(rng, shape, (width * aspect, width)) / 2**octave
    return total / np.float32(np.sqrt((1 - 0.25**octaves) / 0.75))


def rotated(rng: Random, shape: tuple[int, int], angle: float, cell: tuple[float, float]) -> Field:
    """`noise` whose y axis is turned by `angle` radians; same shape and moments."""
    if abs(np.sin(angle)) < 1e-3:
        return noise(rng, shape, cell)
    side = int(np.ceil(np.hypot(*shape))) + 2
    field = noise(rng, (side, side), cell)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(np.degrees(angle)), 1.0)
    shift = np.array([[0, 0, shape[1] - side], [0, 0, shape[0] - side]]) / 2  # centre on centre
    turned = cv2.warpAffine(field, turn + shift, (shape[1], shape[0]), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.float32)


def _brushed(rng: Random, shape: tuple[int, int], angle: float) -> Field:
    length = shape[0] * rng.uniform(0.5, 4.0)
    streaks = rotated(rng, shape, angle, (length, rng.uniform(1.0, 3.0)))
    return streaks + 0.6 * rotated(rng, shape, angle, (length, rng.uniform(4.0, 16.0)))


def _grain(rng: Random, shape: tuple[int, int], angle: float) -> Field:
    white = rng.standard_normal(shape, dtype=np.float32)
    sigma = rng.uniform(0.0, 1.2)
    if sigma < 0.3:
        return white
    soft = cv2.GaussianBlur(white, (0, 0), sigma)
    return np.asarray(soft / (soft.std() + 1e-6), np.float32)


def _mottled(rng: Random, shape: tuple[int, int], angle: float) -> Field:
    coarse = fractal(rng, shape, rng.uniform(4.0, 12.0), 3, rng.uniform(1.0, 3.0))
    return 0.8 * coarse + 0.6 * rng.standard_normal(shape, dtype=np.float32)


def _periodic(rng: Random, shape: tuple[int, int], angle: float) -> Field:
    y, x = np.indices(shape, dtype=np.float32)
    period = rng.uniform(3.0, 16.0)
    phase = (np.cos(angle) * x + np.sin(angle) * y) * np.float32(2 * np.pi / period)
    wave = np.sin(phase + rng.uniform(0, 2) * noise(rng, shape, (40, 40)))
    if rng.random() < 0.4:  # a weave instead of lines
        wave = wave + np.sin((np.cos(angle) * y - np.sin(angle) * x) * np.float32(2 * np.pi / period))
    return np.asarray(wave + 0.3 * rng.standard_normal(shape, dtype=np.float32), np.float32)


def _cloudy(rng: Random, shape: tuple[int, int], angle: float) -> Field:
    return fractal(rng, shape, min(shape) / 2, 6, rng.uniform(1.0, 2.0))


TEXTURES = (_brushed, _grain, _mottled, _periodic, _cloudy)


def surface_angle(rng: Random) -> float:
    """Direction of rolling or brushing in radians: mostly along an axis of the image, as in production."""
    if rng.random() < 0.3:
        return float(rng.uniform(0, np.pi))
    return float(np.pi / 2 * rng.integers(0, 2))


def texture(rng: Random, shape: tuple[int, int], angle: float) -> Field:
    """One or two textures mixed; (y, x) float32, mean about 0, standard deviation about 1."""
    main = TEXTURES[rng.choice(len(TEXTURES), p=(0.3, 0.28, 0.22, 0.08, 0.12))](rng, shape, angle)
    if rng.random() < 0.4:
        main = main + 0.5 * _grain(rng, shape, angle)
    return np.asarray(main / (main.std() + 1e-6), np.float32)


def illumination(rng: Random, shape: tuple[int, int]) -> Field:
    """Light over the surface: slope, vignette, spot, soft shade; (y, x) float32 factor of mean about 1."""
    y, x = np.indices(shape, dtype=np.float32) / np.float32(max(shape))
    light = np.ones(shape, np.float32)
    if rng.random() < 0.6:
        slope = rng.uniform(-0.5, 0.5, 2)
        light += np.float32(slope[0]) * (y - y.mean()) + np.float32(slope[1]) * (x - x.mean())
    if rng.random() < 0.4:  # a spot, or its opposite: a vignette
        cy, cx, width = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.3, 0.9)
        hill = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / np.float32(2 * width**2))
        light += np.float32(rng.uniform(-0.4, 0.5)) * (hill - hill.mean())
    if rng.random() < 0.5:  # stains and shade too large and too soft to be called a defect
        shade = noise(rng, shape, (rng.uniform(0.4, 2.0) * shape[0], rng.uniform(0.3, 1.0) * shape[1]))
        light += np.float32(rng.uniform(0.02, 0.15)) * shade
    return np.clip(light, 0.25, 1.8)


def bare_surface(rng: Random, shape: tuple[int, int], angle: float) -> tuple[Field, float]:
    """A surface without defects.

    shape: (y, x) pixels; angle: direction of rolling, radians.
    Returns (y, x) float32 grey values about [0, 255], and the standard deviation of its texture.
    """
    level = rng.uniform(45, 215)
    strength = level * float(np.exp(rng.uniform(np.log(0.01), np.log(0.22))))
    grey = level * illumination(rng, shape) + np.float32(strength) * texture(rng, shape, angle)
    if rng.random() < 0.15:
        _streak(rng, grey, angle, strength)
    if rng.random() < 0.2:  # the part ends inside the picture
        for side in rng.permutation(4)[: rng.choice((1, 2, 3, 4), p=(0.5, 0.2, 0.1, 0.2))]:
            _dark_margin(rng, grey, int(side))
    return np.asarray(grey, np.float32), strength


def _streak(rng: Random, grey: Field, angle: float, strength: float) -> None:
    """Stripes along the rolling that every part has: fainter than any defect (see `models.defects.draw_style`)."""
    y, x = np.indices(grey.shape, dtype=np.float32)
    across = -np.sin(angle) * y + np.cos(angle) * x
    for _ in range(int(rng.integers(1, 6))):
        width, middle = rng.uniform(0.004, 0.06) * max(grey.shape), rng.uniform(across.min(), across.max())
        hill = np.exp(-((across - middle) ** 2) / np.float32(2 * width**2))
        grey += np.float32(rng.uniform(-1, 1) * (6 + 0.9 * strength)) * hill


def _dark_margin(rng: Random, grey: Field, side: int) -> None:
    """What lies beyond one of the four sides of a part, whose edge may slant a little and catch the light."""
    view = np.moveaxis(grey, side // 2, 0)
    view = view[::-1] if side % 2 else view
    along = np.linspace(-0.5, 0.5, view.shape[1], dtype=np.float32)[None]
    slant = rng.normal(0, 0.02) if rng.random() < 0.5 else 0.0
    depth = np.arange(len(view), dtype=np.float32)[:, None] - np.float32(len(view)) * (
        np.float32(rng.uniform(0.01, 0.15)) + np.float32(slant) * along
    )  # (depth, along): pixels within the part, negative beyond it
    if rng.random() < 0.4:
        rim = np.float32(max(1.0, 0.01 * len(view))) * rng.uniform(0.5, 2.0)
        view *= 1 + np.float32(rng.uniform(-0.4, 0.7)) * np.exp(-np.abs(depth) / np.float32(rim)) * (
            depth >= 0
        )
    view *= np.where(depth < 0, np.float32(rng.uniform(0.05, 0.5)), np.float32(1))
