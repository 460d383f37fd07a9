from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tasks.views import View
from viewer import style
from viewer.strip import StripRow, save, strip


def row(height=40, width=60, classes=(1,), truth=True):
    rng = np.random.default_rng(0)
    views = [View(), View(True, 1), View(False, 0, 2, 3), View(False, 2)]
    label = np.zeros((height, width), np.uint8)
    label[10:20, 10:30] = classes[0] if classes else 0
    doubt = label.copy()
    doubt[:5] = 255
    slots = (max(1, len(classes)), height, width)
    mask = np.broadcast_to((label > 0)[None, None], (slots[0], len(views), height, width)).astype(np.uint8)
    point = np.full((slots[0], 2, len(views), 3, 3), np.nan, np.float32)
    point[:, 0, 0] = [[15, 12, 1], [20, 15, 1], [50, 35, 0]]
    return StripRow(
        name="a/long_name_of_an_image_0001.png",
        labels=tuple(f"class {k}" for k in classes),
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        view=np.stack([view.parameters for view in views]),
        mask=mask,
        mean=rng.random(slots, np.float32),
        entropy=rng.random(slots, np.float32),
        cam=rng.random(slots, np.float32).astype(np.float16),
        point=point,
        slot_class=np.array(classes or (0,), np.uint8),
        p1=doubt,
        p2=doubt,
        p=label,
        confidence=rng.random((height, width)).astype(np.float16),
        truth=label if truth else None,
    )


def titles(figure):
    return [text.get_text() for text in figure.texts]


def test_it_shows_every_step_once(tmp_path):
    figure = strip([row(), row(90, 40, classes=(2, 3))], ["one", "two", "three"])
    expected = {"image", "CAM", "P1", "prompts", "view 1", "view 3", "mean", "entropy", "P2", "P", "truth"}
    assert expected <= set(titles(figure))
    assert titles(figure).count("P2") == 1
    assert {"class 1", "class 2", "class 3"} <= set(titles(figure))
    save(figure, tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as image:
        width, height = figure.get_size_inches()
        assert image.size == pytest.approx((144 * width, 144 * height), abs=2)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["strip.png"]


def test_without_truth_there_is_no_such_column():
    figure = strip([row(truth=False)], ["one"])
    assert "truth" not in titles(figure)
    assert "truth" in titles(strip([row(truth=False), row()], ["one"]))


def test_an_image_without_a_defect_can_be_drawn(tmp_path):
    figure = strip([row(classes=())], ["one"])
    assert "no defect" in titles(figure)
    save(figure, tmp_path / "good.png")


def test_the_legend_names_the_classes_that_are_shown():
    legend = strip([row(classes=(2,))], ["one", "two"]).legends[0]
    words = [text.get_text() for text in legend.get_texts()]
    assert "two" in words
    assert "one" not in words
    assert any(word.startswith("255") for word in words)


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        strip([], [])


def test_colours_differ_and_only_classes_have_one():
    assert len({style.colour(k) for k in range(1, 255)}) == 254
    for k in (0, 255):
        with pytest.raises(ValueError, match="1 to 254"):
            style.colour(k)


def test_stripes_cover_about_half_at_any_size():
    for shape in ((3, 3), (64, 40), (300, 500)):
        assert 0.3 < style.stripes(shape).mean() < 0.75


def test_views_in_which_sam_found_something_are_shown_first():
    given = row()
    mask = given.mask.copy()
    mask[:, 1] = 255
    assert replace(given, mask=mask).telling() == [2, 3, 1]
