import numpy as np
import pytest
from PIL import Image

from tasks.export import ExportError, label_path, label_png, write_classes
from tasks.palette import palette


def test_a_label_comes_back_index_by_index(tmp_path):
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    label_png(label, tmp_path / "deep" / "a.png")
    with Image.open(tmp_path / "deep" / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), label)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_flat_label_keeps_its_index(tmp_path, value):
    label_png(np.full((3, 5), value, np.uint8), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == value).all()


def test_every_index_has_its_own_colour():
    colours = np.array(palette()).reshape(256, 3)
    assert colours.min() >= 0
    assert colours.max() <= 255
    assert (colours[0] == 0).all()
    assert len({tuple(c) for c in colours.tolist()}) == 256


def test_a_label_bears_the_images_name_and_folder(tmp_path):
    found = label_path(tmp_path, ["a b/ü.JPG", "a b/sub/x.1.tif", "y.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found.values()] == [
        "a b/ü.png", "a b/sub/x.1.png", "y.png",
    ]  # fmt: skip


def test_two_images_never_share_a_label(tmp_path):
    with pytest.raises(ExportError, match=r"a/1\.bmp and a/1\.png"):
        label_path(tmp_path, ["a/1.bmp", "b/1.png", "a/1.png"])


def test_line_k_is_class_k(tmp_path):
    write_classes(tmp_path / "new", ["scratch", "mark"])
    assert (tmp_path / "new" / "classes.txt").read_text(encoding="utf-8").split() == ["scratch", "mark"]
    with pytest.raises(ExportError, match="line break"):
        write_classes(tmp_path, ["two\nlines"])
