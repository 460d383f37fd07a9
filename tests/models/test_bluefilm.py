"""The blue-film set: the same everywhere, each image by itself, masks that are exact."""

import ast
from pathlib import Path

import numpy as np
import pytest

from models import bluefilm
from models.bluefilm import CLASSES, FOLDERS, GOOD, SMALLEST_SHARE, digest, draw, pictures
from models.film_defects import DEFECTS
from models.film_fields import Dice, Grid
from models.film_surface import film, lamp, lit

MODELS = Path(__file__).resolve().parents[2] / "models"
FIRST_THREE = "f0e30ad43a1a2a1a9e6071392983202dcad9b9743240ea464264a1841dcb69b2"
"""Digest of the first three images of each class as the measured set has them."""
SMALL = 64


def test_the_pixels_are_the_same_on_every_machine():
    assert digest(pictures(3)) == FIRST_THREE


@pytest.mark.parametrize("name", FOLDERS)
def test_an_image_depends_on_its_arguments_alone(name):
    one = draw(name, 4, side=SMALL)
    draw(name, 3, side=SMALL)
    two = draw(name, 4, side=SMALL)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.mask, two.mask)
    others = [draw(name, 5, side=SMALL), draw(name, 4, seed=1, side=SMALL)]
    assert not any(np.array_equal(one.image, other.image) for other in others)


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    few = list(pictures(1, side=SMALL))
    many = {(p.name, p.number): p for p in pictures(2, side=SMALL)}
    assert [p.name for p in few] == list(FOLDERS)
    assert all(np.array_equal(p.image, many[p.name, p.number].image) for p in few)


@pytest.mark.parametrize("name", CLASSES)
def test_every_defect_has_a_mask_of_its_class(name):
    for number in range(5):
        picture = draw(name, number, side=SMALL)
        assert picture.image.shape == (SMALL, SMALL, 3)
        assert picture.image.dtype == picture.mask.dtype == np.uint8
        assert set(np.unique(picture.mask)) == {0, CLASSES.index(name) + 1}
        assert SMALLEST_SHARE <= (picture.mask > 0).mean() < 0.4


def test_good_film_has_nothing_to_find():
    assert not any(draw(GOOD, number, side=SMALL).mask.any() for number in range(4))


def test_classes_are_in_the_order_that_a_folder_per_class_gives():
    assert CLASSES == ("foam", "foreign_object", "indentation", "scratch")
    assert list(FOLDERS) == sorted(FOLDERS)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_defect_changes_what_its_mask_covers_and_throws_at_most_a_shadow(name, number):
    grid, key, light = Grid.of(120), (7, number), lamp(Dice(7, number, 1))
    bare, scene = film(Dice(*key), grid), film(Dice(*key), grid)
    outline = DEFECTS[name](Dice(7, number, 2), scene, light)
    change = lit(scene, light) - lit(bare, light)
    beside = change[outline >= 0.5 * grid.pixel]
    shadows = name in ("foam", "foreign_object")
    assert beside.max(initial=0) < 1e-12
    assert (np.abs(beside).max(initial=0) > 1e-3) == shadows
    assert (np.abs(change[outline < -0.5 * grid.pixel]).max(1) > 1e-3).mean() > 0.95


def test_what_the_film_is_like_says_nothing_of_the_class():
    corners = {name: [] for name in FOLDERS}
    for name in FOLDERS:
        for number in range(6):
            corners[name].append(draw(name, number, seed=3, side=SMALL).image[:8, :8].mean())
    means = [np.mean(values) for values in corners.values()]
    assert max(means) - min(means) < 2 * np.mean([np.std(values) for values in corners.values()])


def used_of_numpy(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
    }


@pytest.mark.parametrize("path", sorted(MODELS.glob("film_*.py")), ids=lambda path: path.stem)
def test_only_operations_that_are_exact_everywhere(path):
    exact = {
        "abs", "arange", "array", "asarray", "clip", "count_nonzero", "floor", "full", "maximum", "minimum",
        "moveaxis", "ones", "pad", "repeat", "sqrt", "where", "zeros", "zeros_like",
    }  # fmt: skip
    about = {"float64", "int64", "uint64", "uint8", "random"}
    assert used_of_numpy(path) <= exact | about
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not any(isinstance(node, ast.Pow | ast.MatMult) for node in nodes)


@pytest.mark.parametrize("path", sorted([*MODELS.glob("film_*.py"), MODELS / "bluefilm.py"]))
def test_nothing_is_shared_with_what_the_weights_were_trained_on(path):
    modules = {
        node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    assert not modules & {"models.surfaces", "models.defects", "models.textures", "models.photometry"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "hole"}, "hole"),
        ({"number": -1}, "-1"),
        ({"seed": -2}, "-2"),
        ({"side": 20}, "20 pixels"),
    ],
)
def test_errors_name_the_value(arguments, named):
    with pytest.raises(ValueError, match=named):
        draw(**{"name": "foam", "number": 0, **arguments})


def test_a_defect_that_never_shows_is_an_error(monkeypatch):
    monkeypatch.setattr(bluefilm, "SMALLEST_SHARE", 1.0)
    with pytest.raises(RuntimeError, match="foam 3 of seed 0: no defect can be seen at 64 pixels"):
        draw("foam", 3, side=SMALL)
