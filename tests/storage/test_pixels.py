import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from storage.pixels import UnreadableImage, read_header, read_label_map, read_pixels, to_rgb8

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
DEEP = RNG.integers(0, 4096, (20, 30), np.uint16)


def seen(path, value_range=None):
    return to_rgb8(read_pixels(path), value_range)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_grey_and_colour_come_back_exactly(tmp_path, suffix):
    Image.fromarray(GREY).save(tmp_path / f"g.{suffix}")
    Image.fromarray(RGB).save(tmp_path / f"c.{suffix}")
    np.testing.assert_array_equal(seen(tmp_path / f"g.{suffix}"), np.repeat(GREY[..., None], 3, 2))
    np.testing.assert_array_equal(seen(tmp_path / f"c.{suffix}"), RGB)


def test_jpeg_comes_back_nearly(tmp_path):
    smooth = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "g.jpg", quality=95)
    assert np.abs(seen(tmp_path / "g.jpg")[..., 0].astype(int) - smooth).max() <= 4


def test_palette_alpha_and_cmyk_become_rgb(tmp_path):
    paletted = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    paletted.save(tmp_path / "p.png")
    np.testing.assert_array_equal(seen(tmp_path / "p.png"), np.asarray(paletted.convert("RGB")))
    Image.fromarray(np.dstack([RGB, GREY])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(seen(tmp_path / "a.png"), RGB)
    Image.fromarray(np.dstack([GREY, GREY])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(seen(tmp_path / "la.png")[..., 0], GREY)
    inks = Image.fromarray(RGB).convert("CMYK")
    inks.save(tmp_path / "k.tif")
    np.testing.assert_array_equal(seen(tmp_path / "k.tif"), np.asarray(inks.convert("RGB")))
    Image.fromarray(GREY > 99).save(tmp_path / "one.png")
    np.testing.assert_array_equal(seen(tmp_path / "one.png")[..., 0], (GREY > 99) * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_grey_and_colour_keep_their_depth_and_share_one_range(tmp_path, suffix):
    Image.fromarray(DEEP).save(tmp_path / f"g.{suffix}")
    colour = np.dstack([DEEP, DEEP // 2, DEEP // 4])
    cv2.imwrite(str(tmp_path / f"c.{suffix}"), colour[..., ::-1])
    np.testing.assert_array_equal(read_pixels(tmp_path / f"g.{suffix}"), DEEP)
    np.testing.assert_array_equal(read_pixels(tmp_path / f"c.{suffix}"), colour)
    assert read_header(tmp_path / f"c.{suffix}").bits == 16
    expected = np.round(DEEP / 4095 * 255)
    assert np.abs(seen(tmp_path / f"g.{suffix}", (0, 4095))[..., 0] - expected).max() <= 0.5
    assert np.abs(seen(tmp_path / f"c.{suffix}", (0, 4095))[..., 0] - expected).max() <= 0.5


def test_scaling_clips_and_leaves_eight_bits_alone():
    assert to_rgb8(np.array([[0, 100, 200, 999]], np.uint16), (100, 200))[0, :, 0].tolist() == [
        0,
        0,
        255,
        255,
    ]
    np.testing.assert_array_equal(to_rgb8(GREY, (5, 9))[..., 1], GREY)
    for wrong in (None, (200, 200), (200, 100)):
        with pytest.raises(ValueError, match="value_range"):
            to_rgb8(DEEP, wrong)


def test_deep_images_with_alpha_lose_the_alpha_alone(tmp_path):
    clear = np.full_like(DEEP, 65535)
    cv2.imwrite(str(tmp_path / "c.png"), np.dstack([DEEP // 4, DEEP // 2, DEEP, clear]))
    np.testing.assert_array_equal(read_pixels(tmp_path / "c.png"), np.dstack([DEEP, DEEP // 2, DEEP // 4]))
    rows = b"".join(b"\0" + np.dstack([row, row // 2]).astype(">u2").tobytes() for row in DEEP)
    (tmp_path / "la.png").write_bytes(png(DEEP.shape, depth=16, colour=4, data=zlib.compress(rows)))
    np.testing.assert_array_equal(read_pixels(tmp_path / "la.png"), np.dstack([DEEP] * 3))


def png(shape, depth, colour, data):
    """A PNG by hand: Pillow and OpenCV write no 16-bit grey with alpha."""
    head = struct.pack(">IIBBBBB", shape[1], shape[0], depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_rotation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"e.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(seen(path), upright)
    header = read_header(path)
    assert (header.height, header.width) == upright.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_rotation_of_deep_colour_is_that_of_eight_bits(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"e.{suffix}", exif=exif)
    deep = with_orientation(RGB.astype(np.uint16) * 257, suffix, orientation)
    (tmp_path / f"d.{suffix}").write_bytes(deep)
    pixels = read_pixels(tmp_path / f"d.{suffix}")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels // 257, read_pixels(tmp_path / f"e.{suffix}"))
    header = read_header(tmp_path / f"d.{suffix}")
    assert (header.height, header.width, header.bits) == (*pixels.shape[:2], 16)


def with_orientation(colour, suffix, orientation):
    """16-bit colour as a file that asks to be turned."""
    data = cv2.imencode(f".{suffix}", colour[..., ::-1])[1].tobytes()
    if suffix == "tif":  # the tag table is the last thing in the file: add one entry to a copy of it
        start = struct.unpack("<I", data[4:8])[0]
        count = struct.unpack("<H", data[start : start + 2])[0]
        entries = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
        entries = [entry for entry in entries if entry[:2] != struct.pack("<H", 0x0112)]
        entries.append(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
        entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
        table = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
        return data[:4] + struct.pack("<I", len(data)) + data[8:] + table
    exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    return data[:33] + chunk + data[33:]  # right after IHDR


def test_a_damaged_rotation_is_no_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(RGB).save(tmp_path / "e.png", exif=exif)
    np.testing.assert_array_equal(seen(tmp_path / "e.png"), RGB)
    assert read_header(tmp_path / "e.png").width == RGB.shape[1]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.95, 0.999])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # metadata cut short
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"t.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (200, 200), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnreadableImage):
        read_pixels(path)


@pytest.mark.parametrize("deep", [False, True])
def test_one_flipped_bit_in_a_png_is_seen(tmp_path, deep):
    cv2.imwrite(str(tmp_path / "c.png"), np.dstack([DEEP] * 3) if deep else RGB)
    data = (tmp_path / "c.png").read_bytes()
    for place in range(60, len(data) - 20, len(data) // 20):
        flipped = bytearray(data)
        flipped[place] ^= 4
        (tmp_path / "f.png").write_bytes(flipped)
        with pytest.raises(UnreadableImage):
            read_pixels(tmp_path / "f.png")


def test_a_jpeg_may_be_followed_by_more(tmp_path):
    """Phones append previews and videos; what counts is that the picture itself is whole."""
    Image.fromarray(RGB).save(tmp_path / "j.jpg")
    whole = read_pixels(tmp_path / "j.jpg")
    (tmp_path / "more.jpg").write_bytes((tmp_path / "j.jpg").read_bytes() + b"x" * 100_000)
    np.testing.assert_array_equal(read_pixels(tmp_path / "more.jpg"), whole)
    Image.fromarray(RGB).save(
        tmp_path / "p.jpg", "MPO", save_all=True, append_images=[Image.fromarray(RGB[::2])]
    )
    np.testing.assert_array_equal(read_pixels(tmp_path / "p.jpg"), whole)


def test_only_image_formats_are_opened(tmp_path):
    """Pillow would hand PostScript to an outside program, whatever the file's ending."""
    (tmp_path / "e.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG, BMP or TIFF"):
        read_pixels(tmp_path / "e.png")


def test_what_is_no_image_is_told_plainly(tmp_path):
    (tmp_path / "n.png").write_text("not an image")
    with pytest.raises(UnreadableImage, match="not a PNG, JPEG, BMP or TIFF"):
        read_pixels(tmp_path / "n.png")


def test_a_bomb_is_refused_from_its_header(tmp_path):
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    with pytest.raises(UnreadableImage, match=r"60000 × 60000 pixels, more than data.max_megapixels"):
        read_pixels(tmp_path / "b.png")
    Image.fromarray(GREY).save(tmp_path / "s.png")
    with pytest.raises(UnreadableImage, match=r"30 × 20 pixels, more than data.max_megapixels"):
        read_header(tmp_path / "s.png", max_pixels=500)


def test_pages_and_strange_floats_are_refused(tmp_path):
    page = Image.fromarray(GREY)
    page.save(tmp_path / "m.tif", save_all=True, append_images=[page])
    with pytest.raises(UnreadableImage, match="2 pages"):
        read_pixels(tmp_path / "m.tif")
    Image.fromarray(RNG.random((9, 9), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UnreadableImage, match="save it as 16-bit"):
        read_pixels(tmp_path / "f.tif")
    Image.fromarray(DEEP.astype(np.int32)).save(tmp_path / "i.tif")
    np.testing.assert_array_equal(read_pixels(tmp_path / "i.tif"), DEEP)


def test_label_images_are_indices(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "l.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "l.png"), GREY)
    paletted = Image.fromarray(GREY % 3, mode=None).convert("L")
    paletted.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    paletted.save(tmp_path / "p.png", bits=2)
    np.testing.assert_array_equal(read_label_map(tmp_path / "p.png"), GREY % 3)


def test_what_is_no_label_image_is_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "c.png")
    Image.fromarray(GREY).save(tmp_path / "j.png", "JPEG")
    packed = zlib.compress((b"\0" + b"\x1b" * 8) * 20)  # 2-bit grey, which a decoder spreads over 0 to 255
    (tmp_path / "two.png").write_bytes(png((20, 32), depth=2, colour=0, data=packed))
    for name in ("c.png", "j.png", "two.png"):
        with pytest.raises(UnreadableImage, match="one class index a pixel"):
            read_label_map(tmp_path / name)
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG")
    (tmp_path / "t.png").write_bytes(stream.getvalue()[:-40])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_label_map(tmp_path / "t.png")
