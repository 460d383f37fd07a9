"""The look of defects: taught by cells of SAM's features, asked about images that did not teach it."""

import numpy as np
import pytest
import torch
from look_scenes import CELLS, CPU, asked, lesson_of, lessons, scene, trusted

from models.agreement import UNKNOWN, Target
from models.appearance import (
    OWN,
    TURNS,
    WINDOW,
    Appearance,
    Lesson,
    _back,
    _in_cells,
    _in_pixels,
    _turned,
    _window,
    lesson,
    look,
    outlined,
    seen_in,
    steps_of,
    teach,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_it_learned_of_some_images_it_sees_in_others():
    net = trusted(teach(lessons(range(40)), 2, steps=200, seed=0, device=CPU))
    for seed in range(100, 110):
        k = 1 + seed % 2
        feature, image, _, _, defect = scene(seed, k)
        seen = asked(net, feature, image, np.array([1, 2], np.uint8))
        own, other = seen[k - 1], seen[2 - k]
        assert own[defect].mean() > 0.65
        assert own[~defect].mean() < 0.3
        assert other[defect].mean() < own[defect].mean() - 0.3, "the other class does not look like that"


def test_an_image_without_a_class_teaches_what_none_looks_like():
    one = lesson_of(0, 0)
    assert one.target.shape == (0, CELLS, CELLS)
    assert (one.weight == 1).all()
    ground = trusted(teach([one], 2, steps=200, seed=0, device=CPU))
    assert asked(ground, *scene(1, 0)[:2], np.array([1, 2], np.uint8)).max() < 0.3


def test_targets_are_shares_of_what_is_known_in_a_cell():
    slot = np.zeros((16, 8), np.uint8)
    slot[:2, :4], slot[2:4, :2] = 1, UNKNOWN
    weight = np.full(slot.shape, 0.5, np.float32)
    given = np.zeros((3, 4, 4), np.float16), np.zeros((16, 8, 3), np.uint8), Target(slot, weight)
    annotation = np.full(slot.shape, UNKNOWN, np.uint8)
    annotation[5, 3], annotation[9, 1], annotation[13, 6] = 5, 0, 5
    p2 = np.zeros(slot.shape, np.uint8)
    p2[4:6, 2:4] = 5
    one = lesson(*given, np.array([0, 5], np.uint8), annotation, p2)
    assert one.asked.tolist() == [4], "the second slot's class"
    assert np.argwhere(one.marked).tolist() == [[0, 1, 0]], "of its marks the one that SAM outlined"
    one = lesson(*given, np.array([5], np.uint8), annotation, p2)
    assert one.target[0, 0, 0] == pytest.approx(8 / 12)
    assert one.weight[0, 0] == pytest.approx(0.5 * 12 / 16)
    assert (one.weight[:, 2:] == 0).all(), "beyond the image"
    assert (one.target[0, 1:] == 0).all()


def test_it_says_nothing_of_what_it_does_not_know():
    net = trusted(teach(lessons(range(6)), 2, steps=200, seed=0, device=CPU))
    feature, image = scene(7, 1)[:2]
    assert (asked(net, feature, image, np.array([3], np.uint8)) == 0.5).all(), "a class that came later"
    assert (asked(None, feature, image, np.array([1], np.uint8)) == 0.5).all()
    assert asked(net, feature, image, np.zeros(0, np.uint8)).shape == (0, 32, 32)
    with pytest.raises(ValueError, match="no image"):
        teach([], 2, steps=200, seed=0, device=CPU)


@pytest.mark.parametrize("size", [(32, 28), (7, 32), (300, 290), (200, 300)])
def test_the_longer_side_spans_all_cells(size):
    net = Appearance(1, 1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.narrow.weight[0], net.head.weight[0, 0] = 1, 100
    trusted(net.eval())
    feature = np.zeros((1, 8, 8), np.float16)
    feature[0, :, 4:] = 1
    seen = asked(net, feature, np.zeros((*size, 3), np.uint8), np.array([1], np.uint8))[0]
    assert seen.shape == size
    x, side = np.arange(size[1]), max(size)
    assert (seen[:, x < 0.3 * side] == 0.5).all(), "where the features are 0"
    assert (seen[:, x > 0.7 * side] > 0.9).all()
    assert not np.ptp(seen, axis=0).any(), "nothing changes from row to row"


def test_the_features_of_another_sam_are_refused():
    net = Appearance(4, 1)
    image, classes = np.zeros((8, 8, 3), np.uint8), np.array([1], np.uint8)
    with pytest.raises(ValueError, match=r"4 channels, and this SAM gives 6.*train_fusion\.checkpoint"):
        asked(net, np.zeros((6, CELLS, CELLS), np.float16), image, classes)


@pytest.mark.parametrize("size", [(64, 64), (60, 40)])
def test_sam_gives_the_outline_of_what_the_features_confirm(size):
    """Cells of 8 pixels: a scratch of 2 fills a quarter of them, which is all that they can be expected to show."""
    cells, scratch = (8, 8), np.zeros(size, np.float32)
    scratch[:, 19:21] = 1
    share = _in_pixels(_in_cells(scratch, cells) / np.maximum(_in_cells(np.ones(size), cells), 1e-6), size)
    assert share.max() < 0.3, "by itself, it never says yes"
    found = outlined(share, scratch, cells)
    assert (found[scratch == 1] > 0.99).all()
    assert (found[scratch == 0] < 0.01).all(), "and nothing beside it"
    invented = outlined(np.zeros(size, np.float32), scratch, cells)
    assert invented.max() == 0, "where no cell shows anything, SAM has no say"
    missed = outlined(share, np.zeros(size, np.float32), cells)
    np.testing.assert_allclose(missed, share, atol=1e-6)
    torn = outlined(share, np.full(size, 0.5, np.float32), cells)
    np.testing.assert_allclose(torn, share, atol=1e-6)


def test_where_sam_was_found_out_the_features_stand_as_they_are():
    net = trusted(teach(lessons(range(6)), 2, steps=200, seed=0, device=CPU))
    feature, image = scene(7, 1)[:2]
    classes, votes = np.array([1], np.uint8), np.zeros((1, 32, 32), np.float32)
    votes[0, :, :9] = 1
    weight = np.ones((32, 32))
    weight[16:] = 0
    heard, alone = look(net, feature, image, classes, votes, weight), asked(net, feature, image, classes)
    np.testing.assert_array_equal(heard[0, 16:], alone[0, 16:])
    assert (heard[0, :16] != alone[0, :16]).any()


def test_turns_go_back():
    x = torch.arange(2 * 16.0).reshape(1, 2, 4, 4)
    assert len({_turned(x, turn).numpy().tobytes() for turn in TURNS}) == 8
    for turn in TURNS:
        assert torch.equal(_back(_turned(x, turn), turn), x)


def test_it_is_indifferent_to_turns_and_repeats_itself():
    first, again = (trusted(teach(lessons(range(6)), 2, steps=200, seed=3, device=CPU)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    feature, image = scene(7, 1)[:2]
    seen = asked(first, feature, image, np.array([1], np.uint8))[0]
    other = np.rot90(feature, axes=(1, 2)).copy(), np.rot90(image).copy()
    turned = asked(first, *other, np.array([1], np.uint8))[0]
    np.testing.assert_allclose(turned, np.rot90(seen), atol=1e-4)
    assert 0 <= seen.min() <= seen.max() <= 1


def test_a_step_sees_windows_of_what_is_known():
    """Of 60 × 40 cells in a square of 60 only some are known; a defect of one cell is in every other window."""
    weight = np.zeros((60, 60), np.float32)
    weight[:, :40] = 1
    target = np.zeros((1, 60, 60), np.float32)
    target[0, 50, 3] = 1
    place = np.arange(3600, dtype=np.float32).reshape(1, 60, 60)
    one, rng = Lesson(place, np.array([0]), target, weight, target > 0), np.random.default_rng(0)
    seen = [_window(rng, one) for _ in range(200)]
    assert all(w.feature.shape == (1, WINDOW, WINDOW) and w.target.shape == (1, WINDOW, WINDOW) for w in seen)
    assert all(w.weight.any() for w in seen)
    for w in seen:  # what lies at the window's own border sees only half of its neighbours
        top, left = divmod(int(w.feature[0, 0, 0]), 60)
        whole = weight[top : top + WINDOW, left : left + WINDOW].copy()
        whole[0] *= top == 0
        whole[-1] *= top + WINDOW == 60
        whole[:, 0] *= left == 0
        whole[:, -1] *= left + WINDOW == 60
        assert np.array_equal(w.weight, whole)
    assert 0.4 < np.mean([w.target.any() for w in seen]) < 0.75
    assert len({w.feature[0, 0, 0] for w in seen}) > 60
    for w in seen:  # what belongs together stays together
        assert np.array_equal(w.target[0] == 1, w.feature[0] == place[0, 50, 3])
        assert np.array_equal(w.marked, w.target > 0)
    none = target[:0, :8, :8]
    small = _window(rng, Lesson(place[:, :8, :8], np.zeros(0, int), none, weight[:8, :8], none > 0))
    assert small.feature.shape == (1, 8, 8)
    assert small.target.shape == (0, 8, 8)


def test_steps_stay_within_bounds():
    assert [steps_of(n, 200) for n in (1, 150, 10_000)] == [200, 300, 600]
    assert steps_of(150, 10) == 30, "whoever wants a quick fusion wants a quick look"


def test_what_cells_look_like_does_not_depend_on_the_light():
    rng = np.random.default_rng(0)
    image = rng.integers(60, 100, (24, 40, 3), np.uint8)
    image[8:16, 8:16] = 20
    feature = np.zeros((1, 8, 8), np.float16)
    first, bright = (seen_in(feature, pixels)[1:] for pixels in (image, image + np.uint8(50)))
    assert first.shape == (OWN, 8, 8)
    np.testing.assert_allclose(first, bright, atol=2e-3)
    assert (first[:, 5:] == 0).all(), "beyond the image"
    assert first[0, 2, 2] < -2, "dark against the rest"
    assert first[4, 2, 2] < first[4, 4, 7], "and so, less so, are its surroundings"
