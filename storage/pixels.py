"""One image file to pixels: refused from its header where it is a bomb, in plain words where it is broken."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
"""Endings, in lower case, of files that are taken for images."""
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""What a file may hold, whatever its ending; Pillow hands some other formats to outside programs."""
MOST_PIXELS = 250_000_000
"""Largest image that is decoded unless the caller says otherwise."""
DEEP_MODES = {"I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
"""Pillow's modes of more than 8 bits a channel, with their bits."""
GREY_MODES = ("1", "L", "LA", *DEEP_MODES)
CUT_MODES = ("RGB", "RGBA", "RGBX")
"""Modes behind which Pillow hides 16 bits a channel, of which it would keep the upper 8."""
ORIENTATION = 0x0112
"""EXIF tag: which of eight flips and turns shows the image upright."""

Image.MAX_IMAGE_PIXELS = None  # read_header refuses by the caller's limit, in words that name it
warnings.filterwarnings(
    "ignore", category=UserWarning, module=r"PIL\."
)  # odd metadata: errors tell what matters


class UnreadableImage(ValueError):  # it names what the image is
    """A file cannot be used as an image; `reason` says why in plain words."""

    def __init__(self, path: Path, reason: str) -> None:
        """path: the file; reason: a clause without a full stop."""
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Header:
    """What a file's first bytes say of it."""

    width: int
    """Pixels, after EXIF rotation."""
    height: int
    """Pixels, after EXIF rotation."""
    bits: int
    """Bits a channel as stored: 1, 8, 16 or 32."""
    channels: int
    """1 for grey, 3 for colour; alpha is not counted."""
    format: str
    """Pillow's name, such as PNG."""


def read_header(path: Path, max_pixels: int = MOST_PIXELS) -> Header:
    """Look at a file without decoding it.

    Raises UnreadableImage for what is no image, has several pages, or holds more than `max_pixels`: a small
    file can unpack to many gigabytes.
    """
    with _opened(path) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnreadableImage(
                path,
                f"{width} × {height} pixels, more than data.max_megapixels = {max_pixels / 1e6:g} allows",
            )
        pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":  # a phone's JPEG: the picture comes first, then its preview
            raise UnreadableImage(path, f"it has {pages} pages; save each as a file of its own")
        if (
            image.format != "TIFF" and _orientation(image) >= 5
        ):  # a quarter turn; Pillow sees to it in TIFF alone
            width, height = height, width
        channels = 1 if image.mode in GREY_MODES else 3
        return Header(width, height, _bits(path, image), channels, image.format or "")


def _opened(path: Path) -> ImageFile.ImageFile:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        what = "the file is empty" if empty else "not a PNG, JPEG, BMP or TIFF, or a damaged header"
        raise UnreadableImage(path, what) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableImage(path, f"cannot be opened: {_plain(error)}") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing or damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError):
        return 1
    return value if value in range(1, 9) else 1


def _bits(path: Path, image: Image.Image) -> int:
    """Bits a channel as stored."""
    if image.mode in DEEP_MODES:
        return DEEP_MODES[image.mode]
    if image.mode == "1":
        return 1
    return 16 if image.mode in CUT_MODES and _stored_bits(path, image) > 8 else 8


def _stored_bits(path: Path, image: Image.Image) -> int:
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # the bit depth in IHDR
    if image.format == "TIFF":
        depth = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return int(max(depth if isinstance(depth, tuple) else (depth,)))
    return 8


def read_pixels(path: Path, max_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode a file in its own depth, rotated as its EXIF says, alpha dropped.

    Returns (y, x) or (y, x, channel=3) RGB, uint8 or uint16. Raises UnreadableImage. What cannot be seen: a
    JPEG whose middle was damaged decodes to other pixels (its sha256 in the catalog tells of later damage).
    """
    header = read_header(path, max_pixels)
    try:
        if header.format == "PNG":
            _verify(path)
        with _opened(path) as image:
            if header.bits == 16 and image.mode in CUT_MODES:
                return _deep(path, image)
            turn = 1 if header.format == "TIFF" else _orientation(image)
            image.load()
            return turned(_converted(path, image), turn)
    except UnreadableImage:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, cv2.error) as error:
        raise UnreadableImage(path, f"cannot be decoded: {_plain(error)}") from error


def _verify(path: Path) -> None:
    """A PNG that was cut short or damaged loads silently, so the checksums of its chunks are read first."""
    with _opened(path) as image:
        try:
            image.verify()
        except (OSError, ValueError, SyntaxError) as error:
            size = path.stat().st_size
            raise UnreadableImage(path, f"truncated or damaged ({size} bytes): {_plain(error)}") from error


def _converted(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        return _narrowed(path, np.asarray(image))
    # a palette may hold transparency, CMYK four inks: both end as RGB
    return np.asarray(image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB"))


def _narrowed(path: Path, values: np.ndarray) -> np.ndarray:
    """Images of 32 bits whose values are whole numbers of 16 bits, as some writers store them."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 or high > 65535 or not np.array_equal(values, np.round(values)):
        raise UnreadableImage(
            path,
            f"32-bit values from {low:g} to {high:g}; expected whole numbers from 0 to 65535: save it as 16-bit",
        )
    return values.astype(np.uint16)


def _deep(path: Path, image: Image.Image) -> np.ndarray:
    """16 bits of colour, or of grey with alpha, through OpenCV, which shows a TIFF upright but not a PNG."""
    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.ndim != 3 or found.dtype != np.uint16:
        raise UnreadableImage(
            path, "16-bit colour in a form that is not read; save it as a plain 16-bit PNG or TIFF"
        )
    rgb = found[..., 2::-1]  # OpenCV's order is BGR(A)
    return turned(rgb, 1 if image.format == "TIFF" else _orientation(image))


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Show pixels upright: (y, x) or (y, x, channel) as stored, and the EXIF orientation, 1 to 8."""
    if orientation in (2, 4, 5, 7):
        pixels = np.flip(pixels, 0 if orientation == 4 else 1)
    quarter = {3: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, quarter))


def to_rgb8(pixels: np.ndarray, value_range: tuple[int, int] | None) -> np.ndarray:
    """What the networks see: (y, x, channel=3) uint8.

    pixels: (y, x) or (y, x, 3), uint8 (taken as it is) or uint16, of which `value_range`, the set's darkest and
    brightest value, is spread over 0 to 255; what lies outside is clipped. Raises ValueError without a range, or for an empty one.
    """
    if pixels.dtype != np.uint8:
        if value_range is None:
            raise ValueError("an image of more than 8 bits, but data.value_range is not set")
        low, high = value_range
        if high <= low:
            raise ValueError(
                f"data.value_range = [{low}, {high}]; expected the darkest value, then the brightest"
            )
        share = (pixels.astype(np.float32) - low) / (high - low)
        pixels = (np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels


def read_label_map(path: Path) -> np.ndarray:
    """A label PNG, one class index a pixel: (y, x) uint8. Raises UnreadableImage for anything else."""
    header = read_header(path)
    with _opened(path) as image:
        # Pillow spreads grey of 1, 2 or 4 bits over 0 to 255, palette indices never
        plain = image.mode == "P" or (image.mode == "L" and _stored_bits(path, image) == 8)
        if header.format != "PNG" or not plain:
            raise UnreadableImage(
                path,
                f"a {header.format} of mode {image.mode}; a label image holds one class index a pixel: "
                "save it as a palette or 8-bit grey PNG",
            )
        _verify(path)
        try:
            return np.array(image)
        except (OSError, SyntaxError) as error:
            raise UnreadableImage(path, f"cannot be decoded: {_plain(error)}") from error


def _plain(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160]
