import numpy as np

from bench.start import LEVELS, class_table, levels, surface_iou
from models.start import SCALES, load_start
from models.surfaces import generate
from storage.sources import Source


def test_the_start_that_ships_finds_procedural_defects():
    assert surface_iou(load_start(), 128, 4, SCALES) > 0.5


def test_levels_are_of_the_inside_and_fall():
    found = levels(load_start(), generate(3, 64).image, (1.0,))
    assert len(found) == len(LEVELS)
    assert 1 >= found[0] >= found[1] >= found[2] >= 0


def test_a_class_is_told_from_good_images_alone():
    sources = [Source("a", ()), Source("b", ("dent",)), Source("c", ("rust",)), Source("d", ("dent", "rust"))]
    found = class_table(np.array([[0.5], [0.6], [0.1], [0.7]]), sources)
    assert found == {"dent": [1.0], "rust": [0.5]}


def test_without_good_images_there_is_nothing_to_tell_from():
    assert class_table(np.array([[0.5]]), [Source("b", ("dent",))]) == {"dent": [None]}
