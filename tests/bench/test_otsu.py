"""Which side of a threshold counts as the defect."""

import numpy as np

from bench.bluefilm import choices, sides
from models.bluefilm import Picture


def picture(level, number=0, name="foam"):
    """A square of some grey value on a ground of 100, foam or good."""
    image = np.full((20, 20, 3), 100, np.uint8)
    image[5:10, 5:10] = level
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:10] = name == "foam"
    return Picture(name, number, image, mask)


def test_both_sides_together_are_the_whole_image_of_a_defect():
    darker, brighter = sides(picture(200))
    assert (darker + brighter == 1).all()
    assert not any(side.any() for side in sides(picture(200, name="good")))


def test_readings_differ_where_polarity_does():
    found = [(p, sides(p)) for p in (picture(200), picture(210), picture(20))]
    chosen = choices(found)
    assert chosen["smaller"] == chosen["oracle"] == [1, 1, 0]
    assert chosen["class"] == [1, 1, 1]
