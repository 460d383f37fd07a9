import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.evaluate import Confusion, EvaluationError, Match, find_masks, metrics, otsu_label_map
from tasks.export import label_png, write_classes

NAMES = ("scratch", "patch", "never")


def maps(count=6, seed=0):
    """Truth and predictions of mixed sizes, 255 in both, a class that only one of them has."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(rng.integers(5, 30, 2))
        truth = rng.choice([0, 1, 2, 255], shape, p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
        guess = np.where(rng.random(shape) < 0.7, truth, rng.choice([0, 1, 4, 255], shape)).astype(np.uint8)
        yield truth, guess


def total(pairs):
    confusion = Confusion()
    for n, (truth, guess) in enumerate(pairs):
        confusion.add(truth, guess, str(n))
    return confusion


def test_it_agrees_with_the_ruler_to_the_last_digit(shared_data, tmp_path):
    for n, (truth, guess) in enumerate(maps()):
        label_png(truth, tmp_path / "truth" / "a" / f"{n}.png")
        label_png(guess, tmp_path / "guess" / "b" / f"{n}.png")
    write_classes(tmp_path, NAMES)
    command = [sys.executable, shared_data.parent / "score.py", tmp_path / "guess", tmp_path / "truth"]
    said = subprocess.run(
        [*command, "--classes", tmp_path / "classes.txt", "--json"], check=True, capture_output=True
    )
    assert metrics(total(maps()), NAMES) == json.loads(said.stdout)


def test_a_perfect_label_scores_one_and_truth_255_is_left_out():
    pairs = [(truth, np.where(truth == 255, 1, truth).astype(np.uint8)) for truth, _ in maps()]
    found = metrics(total(pairs), NAMES)
    assert found["ACC"] == found["mIoU"] == found["mIoU_foreground"] == 1
    assert set(found["IoU"]) == {"background", "scratch", "patch"}


def test_a_predicted_255_is_wrong_and_counted():
    truth = np.zeros((2, 5), np.uint8)
    guess = truth.copy()
    guess[0, :2] = 255
    found = metrics(total([(truth, guess)]), NAMES)
    assert found["ACC"] == found["IoU"]["background"] == pytest.approx(0.8)
    assert found["ignored"] == pytest.approx(0.2)


def test_one_matrix_over_the_set_is_no_mean_over_images():
    big, small = np.ones((10, 10), np.uint8), np.ones((1, 1), np.uint8)
    found = metrics(total([(big, big), (small, 0 * small)]), NAMES)
    assert found["IoU"]["scratch"] == pytest.approx(100 / 101)


def test_another_size_is_refused_by_name():
    with pytest.raises(EvaluationError, match=r"x\.png: .*4 × 3.* 3 × 4"):
        Confusion().add(np.zeros((4, 3), np.uint8), np.zeros((3, 4), np.uint8), "x.png")


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1)).save(path)


def test_a_mask_is_found_by_its_path_else_by_its_stem(tmp_path):
    touch(tmp_path / "a/1.png", tmp_path / "b/1.png", tmp_path / "else/2.png")
    found = find_masks(tmp_path, ["a/1.jpg", "b/1.jpg", "c/2.bmp"])
    assert found == {
        "a/1.jpg": tmp_path / "a/1.png",
        "b/1.jpg": tmp_path / "b/1.png",
        "c/2.bmp": tmp_path / "else/2.png",
    }


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            "c/1.jpg",
            "c/1.jpg: 2 masks of that name below {0}: {0}/a/1.png, {0}/b/1.png; move the right one to {0}/c/1.png",
        ),
        ("a/3.png", "a/3.png: no mask of that name below {0}; expected {0}/a/3.png"),
    ],
)
def test_a_mask_that_is_not_there_or_not_clear_is_an_error(tmp_path, image, said):
    touch(tmp_path / "a/1.png", tmp_path / "b/1.png")
    with pytest.raises(EvaluationError) as caught:
        find_masks(tmp_path, [image])
    assert str(caught.value) == said.format(tmp_path)
    with pytest.raises(EvaluationError, match="is no folder"):
        find_masks(tmp_path / "none", [image])


@pytest.mark.parametrize("bright", [True, False])
def test_otsu_takes_the_smaller_side_whichever_it_is(bright):
    defect = np.zeros((20, 20), bool)
    defect[4:9, 5:12] = True
    image = np.repeat(np.where(defect == bright, 200, 50).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(otsu_label_map(image, np.array([0, 7], np.uint8)), defect * 7)
    assert not otsu_label_map(image, np.zeros(1, np.uint8)).any()


def test_masks_that_count_the_classes_otherwise_are_told():
    match, path = Match(NAMES), Path("masks/a.png")
    good, other = np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 255]], np.uint8)
    match.add(good, ["scratch"], path)
    match.add(np.zeros((1, 3), np.uint8), [], path)
    assert match.notes() == ["no mask shows 'patch', 'never'"]
    match.add(other, ["scratch"], path)
    match.add(other, [], path)
    numbered, unexpected, missing = match.notes()
    assert numbered.startswith(
        "1 of 3 masks with a defect, a.png the first, without any class of their image's label"
    )
    assert "1 scratch, 2 patch, 3 never, and 255" in numbered
    assert unexpected.startswith(
        "1 of 3 masks with a defect, a.png the first, whose image is labelled as having none"
    )
    assert missing == "no mask shows 'never'"
    with pytest.raises(EvaluationError, match=r"a\.png: value 4 is no class of the store"):
        match.add(np.array([[4]], np.uint8), ["scratch"], path)


def test_masks_of_0_and_255_are_of_another_kind():
    match = Match(NAMES)
    match.add(np.array([[0, 255]], np.uint8), [], Path("good.png"))
    assert match.notes() == ["no mask shows 'scratch', 'patch', 'never'"]
    match.add(np.array([[0, 255]], np.uint8), ["scratch"], Path("a.png"))
    with pytest.raises(EvaluationError, match="only 0 and 255: if 255 is meant for a defect"):
        match.notes()
