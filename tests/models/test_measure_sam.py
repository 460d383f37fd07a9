"""The measuring commands measure what they say."""

import numpy as np
import pytest
from PIL import Image
from segment_anything import SamPredictor

from models.measure_sam import (
    HELD_OUT,
    METHODS,
    class_iou,
    click_labels,
    confusion,
    measure_set,
    piece_iou,
    pieces_of,
    set_table,
    write_card,
)
from models.sam import build_sam
from models.sam_shapes import SIDE
from models.surfaces import KINDS, generate


@pytest.fixture(scope="module")
def sam():
    return build_sam("tiny")


@pytest.fixture
def folder(tmp_path):
    """A set of the form images/, masks/, classes.txt, made of procedural surfaces of two kinds."""
    (tmp_path / "classes.txt").write_text("blob\nband\n")
    for k, kind in enumerate(("blob", "band"), start=1):
        for part in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for seed in range(2):
            surface = generate(HELD_OUT + seed, size=(150, 100), kind=kind)
            Image.fromarray(surface.image).save(tmp_path / "images" / kind / f"{seed}.jpg")
            label = (k * surface.instances.any(0)).astype(np.uint8)
            Image.fromarray(label).save(tmp_path / "masks" / kind / f"{seed}.png")
    return tmp_path


def test_confusion_and_iou_by_hand():
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]], np.uint8)
    guess = np.array([[0, 1, 1, 1], [0, 2, 2, 2]], np.uint8)
    counts = confusion(truth, guess, 3)
    assert counts.sum() == 6
    np.testing.assert_allclose(class_iou(counts), [1 / 3, 2 / 3, 1 / 2, np.nan])


def test_pieces_are_the_connected_parts_of_each_class():
    truth = np.zeros((6, 6), np.uint8)
    truth[0, 0] = truth[1, 1] = 1  # touch at a corner: one piece
    truth[4, 4] = 1
    truth[0, 5] = 2
    truth[5, 0] = 255
    found = list(pieces_of(truth))
    assert [k for k, _ in found] == [1, 1, 2]
    assert [int(mask.sum()) for _, mask in found] == [2, 1, 1]


def test_procedural_pieces_are_all_scored_and_the_best_mask_is_never_worse(sam):
    scored = list(piece_iou(sam, images=6, points=3))
    pieces = sum(len(generate(HELD_OUT + i, SIDE).kinds) for i in range(6))
    assert len(scored) == pieces
    assert all(kind in KINDS and 0 <= chosen <= best <= 1 for kind, chosen, best in scored)


def test_clicks_on_a_good_image_give_background(sam):
    image = generate(1, defects=0).image
    truth = np.zeros(image.shape[:2], np.uint8)
    for label in click_labels(SamPredictor(sam), image, truth, 3, np.random.default_rng(0)):
        assert not label.any()


def test_clicked_labels_hold_only_clicked_classes(sam):
    surface = generate(HELD_OUT + 3, size=(140, 90), kind="blob", defects=3)
    truth = (4 * surface.instances.any(0)).astype(np.uint8)
    chosen, best = click_labels(SamPredictor(sam), surface.image, truth, 3, np.random.default_rng(0))
    assert chosen.shape == best.shape == truth.shape
    assert set(np.unique(chosen)) <= {0, 4}
    hit = [
        ((label == 4) & (truth == 4)).sum() / ((label == 4) | (truth == 4)).sum() for label in (chosen, best)
    ]
    assert min(hit) > 0.2


def test_a_set_is_scored_by_one_confusion_matrix_over_all_its_images(sam, folder):
    names, rows = measure_set(sam, folder, points=3, seed=0)
    assert names == ["blob", "band"]
    counts = np.zeros((3, 3), np.int64)
    for number, path in enumerate(sorted((folder / "masks").rglob("*.png"))):
        image = np.asarray(Image.open(folder / "images" / path.parent.name / f"{path.stem}.jpg"))
        truth = np.asarray(Image.open(path))
        rng = np.random.default_rng((0, number))
        counts += confusion(truth, click_labels(SamPredictor(sam), image, truth, 3, rng)[0], 2)
    np.testing.assert_allclose(rows[0], class_iou(counts))
    assert set_table(sam, folder, [3], 0).count("\n") == 3
    assert set_table(sam, folder, [3], 0, every=2, methods=METHODS).count("\n") == 1 + len(METHODS)


def test_a_mask_without_its_image_is_named(sam, folder):
    (folder / "images" / "blob" / "0.jpg").unlink()
    with pytest.raises(ValueError, match=r"blob/0.png: 0 images of this name"):
        measure_set(sam, folder, points=1, seed=0)


def test_a_card_keeps_what_stands_above_its_figures(tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# A\n\ntext\n\n## Measured\n\nold\n")
    write_card(card, "new\n")
    assert card.read_text() == "# A\n\ntext\n\n## Measured\n\nnew\n"
    card.write_text("# A\n")
    with pytest.raises(ValueError, match="no line '## Measured'"):
        write_card(card, "new\n")
