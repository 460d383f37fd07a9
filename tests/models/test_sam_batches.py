"""Batches for SAM's training: prompts and targets that belong together."""

import cv2
import numpy as np
import pytest
import torch

from models import sam_batches
from models.sam_batches import POINT_COUNTS, draw_batch, draw_frame, draw_pool
from models.sam_shapes import SIDE


@pytest.fixture(scope="module")
def pool():
    return draw_pool(500, 40, workers=1)


def batches(pool, count=25, images=6, groups=2):
    return [draw_batch(np.random.default_rng((1, step)), pool, images, groups) for step in range(count)]


def test_frames_are_padded_with_zeros_beside_their_extent():
    narrow = 0
    for seed in range(60):
        frame = draw_frame(seed)
        height, width = frame.sizes[0]
        assert frame.frames.shape == (1, SIDE, SIDE, 3)
        assert not frame.frames[0, height:].any()
        assert not frame.frames[0, :, width:].any()
        assert not frame.pieces[0, height:].any()
        narrow += min(height, width) < SIDE
    assert 5 < narrow < 50


def test_every_piece_on_a_frame_has_its_kind():
    for seed in range(40):
        frame = draw_frame(seed)
        present = np.setdiff1d(frame.pieces, [0]) - 1
        assert np.array_equal(present, np.flatnonzero(frame.kinds[0]))


def test_a_pool_does_not_depend_on_its_workers(pool, monkeypatch):
    monkeypatch.setattr(sam_batches, "CHUNK", 16)
    other = draw_pool(500, 40, workers=2)
    assert other.frames.tobytes() == pool.frames.tobytes()
    assert other.pieces.tobytes() == pool.pieces.tobytes()


def test_a_pool_holds_only_frames_with_pieces(pool):
    assert pool.kinds.any(1).all()


def test_the_same_generator_gives_the_same_batch(pool):
    one, two = (draw_batch(np.random.default_rng(9), pool, 4, 2) for _ in range(2))
    for name in ("frames", "points", "labels", "targets", "owner"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_shapes_agree_within_a_batch(pool):
    seen = set()
    for batch in batches(pool):
        groups, points = batch.labels.shape
        assert (len(batch.frames), groups) == (6, 12)
        assert points in POINT_COUNTS
        assert batch.points.shape == (12, points, 2)
        assert batch.targets.shape == (12, SIDE, SIDE)
        assert batch.boxes is None or batch.boxes.shape == (12, 4)
        seen.add((points, batch.boxes is None))
    assert len(seen) > 4


def test_labels_say_what_lies_under_the_points(pool):
    right, total = 0, 0
    for batch in batches(pool):
        x, y = torch.floor(batch.points + 0.5).long().clamp(0, SIDE - 1).unbind(2)
        group = torch.arange(len(x))[:, None]
        right += int((batch.targets[group, y, x] == batch.labels).sum())
        total += batch.labels.numel()
    assert 0.95 < right / total < 1.0  # a few clicks are meant to miss


def test_each_target_is_among_the_defects_of_its_image(pool):
    for batch in batches(pool):
        assert (batch.targets <= batch.anything[batch.owner]).all()
        assert (batch.targets.sum((1, 2)) >= 4).all()


def test_some_targets_have_several_pieces(pool):
    shares = [float((b.targets.sum((1, 2)) > 0).float().mean()) for b in batches(pool)]
    assert min(shares) == 1
    several = sum(
        len(torch.unique(b.targets[g])) == 2 and _parts(b.targets[g]) > 1
        for b in batches(pool)
        for g in range(len(b.targets))
    )
    assert several > 0


def _parts(target):
    return cv2.connectedComponents(target.numpy().astype(np.uint8), connectivity=8)[0] - 1


def test_frames_stay_inside_their_extent_after_turning(pool):
    for batch in batches(pool):
        for frame, (height, width) in zip(batch.frames, batch.sizes, strict=True):
            assert not frame[height:].any()
            assert not frame[:, width:].any()
