"""How far the look is listened to: judged by images that did not teach it, and by a user's marks."""

import numpy as np
import pytest
import torch
from look_scenes import CPU, asked, lesson_of, lessons, scene, trusted

from models.agreement import UNKNOWN
from models.appearance import Appearance, lesson, teach
from models.appearance_trust import _auroc, confirmed_in, trust_in
from models.fusion import BESIDE_MARKS, others_heard
from models.fusion_patches import target_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_is_trusted_as_far_as_it_is_right_about_others():
    taught, unseen = lessons(range(40)), lessons(range(100, 130))
    net = teach(taught, 2, steps=200, seed=0, device=CPU)
    assert net.trust.tolist() == [0, 0], "in nothing, as long as nobody has looked"
    right = trust_in(net, taught, unseen)
    assert (right > 0.8).all()
    noise = [one._replace(feature=np.random.default_rng(n).normal(size=one.feature.shape).astype(np.float16))
             for n, one in enumerate(taught[:8])]  # fmt: skip
    lost = trust_in(teach(noise, 2, steps=200, seed=0, device=CPU), noise, unseen)
    assert (lost < 0.3).all(), "who learned nothing is hardly heard"
    net.trust.copy_(torch.tensor([0.5, 0.0]))
    feature, image = scene(7, 1)[:2]
    half, none = asked(net, feature, image, np.array([1, 2], np.uint8))
    assert (none == 0.5).all()
    whole = asked(trusted(net), feature, image, np.array([1], np.uint8))[0]
    np.testing.assert_allclose(half - 0.5, (whole - 0.5) / 2, atol=1e-6)


def test_who_tells_them_apart_but_calls_all_of_it_ground_is_not_heard():
    """As a look that few images have taught does: the order is right, and P would lose every defect."""
    taught, unseen = lessons(range(40)), lessons(range(100, 130))
    net = teach(taught, 2, steps=200, seed=0, device=CPU)
    net.head.bias[1] -= 50
    right, denied = trust_in(net, taught, unseen)
    assert right > 0.7
    assert denied == 0


def test_a_class_that_only_the_judged_images_show_is_not_spoken_of():
    """Its teachers, good ones among them, know no such class, and would vote it away."""
    taught = [lesson_of(seed, seed % 2) for seed in range(20)]
    unseen = lessons(range(100, 112))  # class 2 among them
    net = teach(taught, 2, steps=200, seed=0, device=CPU)
    trust = trust_in(net, taught, unseen)
    assert trust[0] > 0.8
    assert trust[1] == 0
    assert trust_in(net, taught, taught)[1] == 0, "and a class that nobody shows"
    assert trust_in(net, taught, []).tolist() == [0, 0]


def test_beside_marks_it_is_heard_as_far_as_it_knows_of_what_was_marked():
    net = teach(lessons(range(40)), 2, steps=200, seed=0, device=CPU)
    known = [lesson_of(seed, 1 + seed % 2, mark=True) for seed in range(100, 112)]
    assert (confirmed_in(net, known) == 1).all()
    blind = [one._replace(feature=np.zeros_like(one.feature)) if one.asked == 1 else one for one in known]
    assert confirmed_in(net, blind).tolist() == [1, 0], "of the second class it sees nothing"
    third = confirmed_in(net, [*known[1::2], *blind[1:4:2]])  # 6 marks that it sees, 2 that it does not
    assert third[1] == pytest.approx(2 * 6 / 8 - 1)
    assert confirmed_in(net, []).tolist() == [1, 1]
    assert confirmed_in(net, lessons(range(100, 112))).tolist() == [1, 1], "nobody marked anything"


def test_a_mark_in_a_thin_defect_is_known_by_what_of_the_cell_can_be_expected():
    """Half as much as SAM's outline fills of the cell is enough."""
    net = teach(lessons(range(40)), 2, steps=200, seed=0, device=CPU)
    one = lesson_of(101, 1, mark=True)
    dim = one._replace(feature=np.full_like(one.feature, 0))
    shares = torch.sigmoid(net(torch.from_numpy(dim.feature).float()[None]))[0, 0]
    found = float(shares.detach()[one.marked[0]].max())
    for target, expected in ((1.5 * found, 1), (2.5 * found, 0)):
        thin = dim._replace(target=np.full_like(one.target, target))
        assert confirmed_in(net, [thin]).tolist() == [expected, 1]


@pytest.mark.parametrize(("found", "known"), [(0, 0), (UNKNOWN, 0), (1, 1)])
def test_a_mark_counts_where_sam_outlined_what_was_marked(found, known):
    """As a training gets it: the marked pixel itself is always known to be of the class."""
    _, _, _, _, defect = scene(101, 1)
    annotation, p2 = np.full(defect.shape, UNKNOWN, np.uint8), np.where(defect, found, 0).astype(np.uint8)
    place = tuple(np.argwhere(defect).mean(0).astype(int))
    annotation[place] = 1
    record = {
        "p1": np.zeros_like(p2), "p2": p2, "annotation": annotation, "weight": np.ones(p2.shape, np.float16),
        "slot_class": np.array([1], np.uint8), "cam": np.zeros((1, *p2.shape), np.float16),
        "mean": np.where(defect, found == 1, 0).astype(np.float32)[None], "reliability": np.zeros(2, np.float32),
    }  # fmt: skip
    target = target_of(record, abstain=0.3, top=0.01, floor=0.1)
    assert target.slot[place] == 1
    one = lesson(*scene(101, 1)[:2], target, record["slot_class"], annotation, p2)
    assert one.marked.sum() == known


def test_images_count_alike_however_much_of_them_is_marked():
    net = teach(lessons(range(40)), 2, steps=200, seed=0, device=CPU)
    seen, blind = lesson_of(101, 1, mark=True), lesson_of(104, 1, mark=True)
    blind = blind._replace(feature=np.zeros_like(blind.feature), marked=blind.target > 0)
    assert blind.marked.sum() > 3
    assert confirmed_in(net, [seen, seen, seen, blind])[0] == pytest.approx(2 * 3 / 4 - 1)


def test_of_classes_that_the_user_marked_others_are_heard_less():
    net = Appearance(4, 2)
    net.confirmed.copy_(torch.tensor([0.5, 0.25]))
    marks = np.array([[1, 2, 3, UNKNOWN]], np.uint8)
    found = others_heard(net, marks, np.array([2, 3, 1, 4], np.uint8))
    assert found.tolist() == [0.25 * BESIDE_MARKS, BESIDE_MARKS, 0.5 * BESIDE_MARKS, 1], (
        "the fourth is not marked here"
    )
    assert others_heard(None, marks, np.array([2, 4], np.uint8)).tolist() == [BESIDE_MARKS, 1]


@pytest.mark.parametrize(("value", "expected"), [([0, 1, 2, 3], 1), ([3, 2, 1, 0], 0), ([1, 1, 1, 1], 0.5)])
def test_auroc_of_cells(value, expected):
    share = np.array([0, 0, 1, 1.0])
    assert _auroc(np.array(value, float), share, np.array([1, 0.5, 0.1, 1])) == pytest.approx(expected)
    assert _auroc(np.array(value, float), np.zeros(4), np.ones(4)) == 0.5
