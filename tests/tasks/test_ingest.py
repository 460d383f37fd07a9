import hashlib

import numpy as np
import pytest

from storage.catalog import ImageRow
from tasks.ingest import PLACEHOLDER, encode_labels, ingest, padded, slots, unread, unusable

CLASSES = ["blob", "dent", "scratch"]


def row(n, labels=("dent",), annotation=""):
    sha256 = hashlib.sha256(str(n).encode()).hexdigest()
    return ImageRow(n, f"{n}.png", sha256, 5, 4, labels, annotation, "b000000", "active", "", 9, 9)


def read(pixels, rows, **changes):
    given = {
        "classes": CLASSES,
        "marks": lambda r, shape: np.full(shape, 2, np.uint8),
        "lenient": frozenset(),
    }
    return ingest(rows=rows, pixels=pixels, **given | changes)


def test_images_of_mixed_sizes_are_padded_with_what_means_nothing():
    sizes = {0: (4, 5), 1: (6, 3)}
    found = read(lambda r: np.full((*sizes[r.id], 3), 9, np.uint8), [row(0), row(1, annotation="x")])
    assert found.arrays["image"].shape == (2, 6, 5, 3)
    assert found.arrays["size"].tolist() == [[4, 5], [6, 3]]
    assert found.arrays["image"][0, 4:].max() == 0
    assert (found.arrays["annotation"][0] == 255).all()
    assert (found.arrays["annotation"][1, :6, :3] == 2).all()
    assert (found.arrays["annotation"][1, :, 3:] == 255).all()
    assert bytes(found.arrays["sha256"][0]).hex() == row(0).sha256


def test_an_unreadable_image_keeps_its_place_without_a_label():
    def pixels(r):
        if r.id == 0:
            raise OSError("gone")
        return np.zeros((20, 20, 3), np.uint8)

    found = read(pixels, [row(0), row(1)])
    assert found.failed == {0: "gone"}
    assert found.arrays["size"].tolist() == [[PLACEHOLDER, PLACEHOLDER], [20, 20]]
    assert found.arrays["slot_class"].tolist() == [[0], [2]]
    assert read(pixels, [row(0), row(1)], lenient=frozenset({0})).failed == {}


def test_a_mark_that_does_not_fit_is_that_images_failure():
    def marks(r, shape):
        raise ValueError("lies outside")

    found = read(lambda r: np.zeros((9, 9, 3), np.uint8), [row(0, annotation="x"), row(1)], marks=marks)
    assert found.failed == {0: "marks: lies outside"}
    assert not unread(found.failed)
    assert unusable(found.failed, "fusion") == {0}
    assert not unusable(found.failed, "vit")
    assert found.arrays["size"].tolist() == [[9, 9], [9, 9]], "its pixels stand"


def test_slots_hold_the_classes_in_order_and_are_never_none():
    label = encode_labels([("scratch", "blob"), (), ("dent",)], CLASSES)
    assert slots(label).tolist() == [[1, 3], [0, 0], [2, 0]]
    assert slots(encode_labels([(), ()], CLASSES)).tolist() == [[0], [0]]
    with pytest.raises(ValueError, match="'rust' is none of the classes"):
        encode_labels([("rust",)], CLASSES)


def test_padding_keeps_every_pixel():
    stack = padded([np.ones((2, 3), np.uint8), np.ones((4, 1), np.uint8)], 7)
    assert stack.shape == (2, 4, 3)
    assert (stack == 1).sum() == 10
    assert (stack == 7).sum() == 14
