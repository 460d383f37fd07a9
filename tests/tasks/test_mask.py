"""In each view's own frame the masks are the official predictor's; choice and votes are right."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from models.sam import build_sam
from models.sam_shapes import SIDE
from tasks import decode as decode_module
from tasks.augment import sam_input
from tasks.decode import Decoded, Prompt, decode, view_masks
from tasks.embed import encode_views
from tasks.mask import STAGE, Judge, image_prompts, mask, soft_jaccard
from tasks.prompt import prompt
from tasks.views import View

SIZE = (75, 110)
VIEWS = [View(flip, turns) for flip in (False, True) for turns in range(4)]
VIEWS += [View(w % 2 == 0, w - 1, 2, w) for w in range(1, 5)]
VIEWS += [View(True, 3, 0.5, 5)]
SETTINGS = {
    "boxes": False,
    "dense": False,
    "multimask": True,
    "low": 0.25,
    "margin": 0.5,
    "growth": 4.0,
    "batch": 5,
}


@pytest.fixture(scope="module")
def sam():
    return build_sam("tiny")  # trained: logits of an untrained one are all within rounding of 0


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    image = rng.integers(90, 130, (*SIZE, 3), dtype=np.uint8)
    image[20:45, 30:70] += 80
    return image


@pytest.fixture(scope="module")
def features(sam, image):
    frames = np.zeros((len(VIEWS), SIDE, SIDE, 3), np.uint8)
    sizes = np.zeros((len(VIEWS), 2), np.uint16)
    for j, view in enumerate(VIEWS):
        sizes[j] = sam_input(view.apply_image(image), frames[j])
    # one by one, as the predictor does: another batch size rounds otherwise
    return encode_views(sam, frames, sizes, 1, "float32")


@pytest.fixture(scope="module")
def asked():
    """What stage prompt asks about two pieces: arrays of one image."""
    heat = np.zeros(SIZE, np.float16)
    heat[20:45, 30:70] = 1
    heat[55:65, 85:105] = 0.8
    arrays = {
        "cam": heat[None, None],
        "slot_class": np.array([[1]], np.uint8),
        "size": np.array([SIZE], np.uint16),
        "view": np.stack([view.parameters for view in VIEWS])[None],
    }
    points = prompt(
        **arrays,
        annotation=np.full((1, *SIZE), 255, np.uint8),
        sha256=np.arange(32, dtype=np.uint8)[None],
        low=0.25,
        high=0.7,
        pieces=16,
        positives=3,
        negatives=1,
        min_area=0.0,
        seed=0,
    )
    return arrays | {"point": points["point"], "box": points["box"]}


def official(sam, image, view, given, multimask):
    predictor = SamPredictor(sam)
    predictor.set_image(np.ascontiguousarray(view.apply_image(image)))
    return predictor.predict(
        point_coords=given.points[:, :2],
        point_labels=given.points[:, 2],
        box=given.box,
        mask_input=None if given.dense is None else given.dense[None],
        multimask_output=multimask,
        return_logits=True,
    )[:2]


@pytest.mark.parametrize(
    ("boxes", "dense", "multimask"), [(False, False, True), (True, False, True), (True, True, False)]
)
def test_masks_equal_the_official_predictors_in_each_views_own_frame(
    sam, image, features, asked, boxes, dense, multimask
):
    heat = asked["cam"][0].astype(np.float32)
    prompts = list(
        image_prompts(
            sam, asked["point"][0], asked["box"][0], heat, VIEWS, np.array([1]), boxes=boxes, dense=dense
        )
    )
    assert {given.view for given in prompts} == set(range(len(VIEWS)))
    extents = [view.extent(SIZE) for view in VIEWS]
    tensor = torch.from_numpy(features)
    single = decode(sam, tensor, prompts, extents, multimask=multimask, batch=1)
    batched = decode(sam, tensor, prompts, extents, multimask=multimask, batch=32)
    varied = 0
    for given, alone, among in zip(prompts, single, batched, strict=True):
        view = VIEWS[given.view]
        logits, iou = official(sam, image, view, given, multimask)
        # other sums round otherwise: nothing may change but a pixel on the very threshold
        sure = np.abs(logits) > 1e-3
        assert sure.mean() > 0.999
        for found in (alone, among):
            masks = view_masks(sam, found.logits, view, SIZE)
            np.testing.assert_array_equal(masks[sure], (logits > 0)[sure])
            np.testing.assert_allclose(found.iou, iou, atol=1e-4)
        varied += 0 < (logits > 0).mean() < 1
    assert varied > len(prompts) / 2  # empty and full masks would be equal for no good reason


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_small_masks_are_resized_as_large_ones_are(sam, monkeypatch, view):
    logits = torch.randn(3, SIDE, SIDE)
    small = view_masks(sam, logits, view, SIZE)
    monkeypatch.setattr(decode_module, "SMALL", 0)
    large = view_masks(sam, logits, view, SIZE)
    assert small.any()
    assert (small != large).mean() < 1e-3  # where a logit is 0 but for rounding


def test_the_stage_returns_the_predictors_masks_undone_into_the_images_frame(sam, image, features, asked):
    generous = SETTINGS | {"growth": 1e9}
    half = features.astype(np.float16)[None]
    one = asked | {"point": asked["point"][:, :, :1], "box": asked["box"][:, :, :1]}
    out = mask(**one, embedding=half, model=sam, precision="float32", **generous)
    j = out["choice"][0, 0, 0]
    heat = asked["cam"][0].astype(np.float32)
    prompts = list(
        image_prompts(sam, one["point"][0], one["box"][0], heat, VIEWS, [1], boxes=False, dense=False)
    )
    extents = [view.extent(SIZE) for view in VIEWS]
    found = decode(
        sam, torch.from_numpy(half[0].astype(np.float32)), prompts, extents, batch=SETTINGS["batch"]
    )
    for given, answer in zip(prompts, found, strict=True):
        view = VIEWS[given.view]
        seen = view_masks(sam, answer.logits[j : j + 1], view, SIZE)[0]
        np.testing.assert_array_equal(
            view.apply_map(out["mask"][0, 0, given.view], fill=0) == 1,
            seen & view.apply_map(np.ones(SIZE, bool)),
        )
        assert out["iou"][0, 0, 0, given.view] == answer.iou[j]


def test_pixels_that_a_view_does_not_show_cast_no_vote(sam, features, asked):
    out = mask(
        **asked, embedding=features.astype(np.float16)[None], model=sam, precision="float32", **SETTINGS
    )
    for v, view in enumerate(VIEWS):
        hidden = view.invert_map(np.ones(view.grid(SIZE), bool), SIZE, fill=0) == 0
        assert (out["mask"][0, 0, v][hidden] == 255).all()
        if view.scale == 1:
            assert (out["mask"][0, 0, v] != 255).all()


def test_padding_and_unused_slots_cast_no_vote(sam, features, asked):
    wide = {"cam": np.zeros((1, 2, SIZE[0] + 4, SIZE[1] + 9), np.float16)}
    wide["cam"][:, :1, : SIZE[0], : SIZE[1]] = asked["cam"]
    for name in ("point", "box"):
        wide[name] = np.concatenate([asked[name], np.full_like(asked[name], np.nan)], 1)
    wide["slot_class"] = np.array([[1, 0]], np.uint8)
    whole = {"embedding": features.astype(np.float16)[None], "model": sam, "precision": "float32"}
    out = mask(**asked | wide, **whole, **SETTINGS)
    np.testing.assert_array_equal(
        out["mask"][:, :1, :, : SIZE[0], : SIZE[1]], mask(**asked, **whole, **SETTINGS)["mask"]
    )
    assert (out["mask"][:, :, :, SIZE[0] :] == 255).all()
    assert (out["mask"][:, :, :, :, SIZE[1] :] == 255).all()
    assert (out["mask"][:, 1] == 255).all()
    assert (out["choice"][:, 1] == 255).all()


def test_an_image_does_not_depend_on_its_neighbours(sam, features, asked):
    other = np.concatenate([features[None, ::-1], features[None]]).astype(np.float16)
    pair = {name: np.concatenate([value, value]) for name, value in asked.items()}
    both = mask(**pair, embedding=other, model=sam, precision="float32", **SETTINGS)
    alone = mask(**asked, embedding=other[1:], model=sam, precision="float32", **SETTINGS)
    for name in both:
        np.testing.assert_array_equal(both[name][1:], alone[name])


def answers(maps, iou, views=None):
    """Decoded prompts whose masks are given: maps (view, choice, y, x) bool at SAM's own input size."""
    for v, each in enumerate(maps):
        logits = torch.from_numpy(np.where(each, 10.0, -10.0).astype(np.float32))
        yield Prompt(0, 0, v if views is None else views[v], np.zeros((1, 3))), Decoded(logits, np.array(iou))


def judged(judge, given, boxes, heat):
    votes = np.full((len(judge.views), *judge.size), 255, np.uint8)
    return votes, *judge.slot(given, boxes, heat, votes)


def square(top, left, bottom, right):
    out = np.zeros((SIDE, SIDE), bool)
    out[top:bottom, left:right] = True
    return out


BOX = np.array([[30, 30, 49, 49]], np.float32)
PIECE = square(30, 30, 50, 50)


def test_the_mask_that_agrees_with_the_cam_beats_the_one_that_sam_prefers(sam):
    judge = Judge(sam, [View()], (SIDE, SIDE), 0.25, 0.5, 100)
    given = list(answers([np.stack([square(0, 0, SIDE, SIDE), PIECE, square(0, 0, 5, 5)])], [0.95, 0.8, 0.9]))
    votes, iou, choice = judged(judge, given, BOX, PIECE.astype(np.float32))
    assert choice.tolist() == [1]
    np.testing.assert_array_equal(votes[0], PIECE)
    assert iou == pytest.approx(0.8)


def test_one_choice_holds_for_all_views(sam):
    judge = Judge(sam, [View(), View(True), View(False, 2)], (SIDE, SIDE), 0.25, 0.5, 100)
    tight, loose = PIECE, square(26, 26, 54, 54)
    maps = [
        np.stack([tight, loose, loose]),
        judge.views[1].apply_map(np.stack([tight, loose, loose])),
        judge.views[2].apply_map(np.stack([loose, tight, loose])),  # alone it would choose otherwise
    ]
    votes, _, choice = judged(judge, list(answers(maps, [0.9, 0.9, 0.9])), BOX, PIECE.astype(np.float32))
    assert choice.tolist() == [0]
    np.testing.assert_array_equal(votes.sum((1, 2)), [tight.sum(), tight.sum(), loose.sum()])


def test_masks_many_times_the_piece_are_rejected_and_recorded(sam):
    judge = Judge(sam, [View()], (SIDE, SIDE), 0.25, 0.5, 4)
    everything = np.ones((3, SIDE, SIDE), bool)
    votes, iou, choice = judged(judge, list(answers([everything], [1, 1, 1])), BOX, PIECE.astype(np.float32))
    assert choice.tolist() == [255]
    assert np.isnan(iou).all()
    assert not votes.any()


def test_a_piece_that_the_user_marked_is_not_rejected(sam):
    judge = Judge(sam, [View()], (SIDE, SIDE), 0.25, 0.5, 4)
    everything = np.ones((3, SIDE, SIDE), bool)
    unbounded = np.full((1, 4), np.nan, np.float32)
    votes, _, _ = judged(judge, list(answers([everything], [1, 1, 1])), unbounded, PIECE.astype(np.float32))
    assert (votes == 1).all()


def test_a_view_not_asked_about_a_piece_has_no_vote_in_its_box(sam):
    judge = Judge(sam, [View(), View(scale=2, window=4)], (SIDE, SIDE), 0.25, 0.5, 100)
    edge = judge.views[1].shown((SIDE, SIDE)).top  # of what the second view shows
    start, stop = edge - 11, edge + 3
    box, piece = np.array([[start, start, stop - 1, stop - 1]], np.float32), square(start, start, stop, stop)
    given = list(answers([np.stack([piece] * 3)], [0.9] * 3))
    votes, _, _ = judged(judge, given, box, piece.astype(np.float32))
    np.testing.assert_array_equal(votes[0], piece)
    assert (votes[1, edge:stop, edge:stop] == 255).all()
    assert (votes[1, stop:, stop:] == 0).all()


def test_soft_jaccard_is_the_jaccard_index_of_binary_maps():
    a, b = square(0, 0, 10, 10), square(0, 5, 10, 15)
    assert soft_jaccard(a, b.astype(np.float32)) == pytest.approx(1 / 3)
    assert soft_jaccard(a, a.astype(np.float32)) == 1
    assert soft_jaccard(~a & a, (~a & a).astype(np.float32)) == 0


def test_arrays_are_as_declared(sam, features, asked):
    out = mask(
        **asked, embedding=features.astype(np.float16)[None], model=sam, precision="bfloat16", **SETTINGS
    )
    assert {spec.name for spec in STAGE.writes} == set(out)
    for spec in STAGE.writes:
        spec.check(out[spec.name])
