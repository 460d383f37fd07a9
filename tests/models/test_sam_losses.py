"""Losses and IoU of masks."""

import pytest
import torch

from models.sam_losses import balanced_cross_entropy, dice_loss, mask_iou, prompt_loss


def square(side, size=32):
    target = torch.zeros(size, size)
    target[:side, :side] = 1
    return target


def test_a_perfect_mask_costs_nothing():
    target = square(8)
    logits = 60 * (target - 0.5)
    assert dice_loss(logits, target) < 1e-3
    assert balanced_cross_entropy(logits, target, 0.5) < 1e-3
    assert mask_iou(logits, target) == 1


def test_an_opposite_mask_costs_all():
    target = square(8)
    assert dice_loss(60 * (0.5 - target), target) > 0.99
    assert mask_iou(0.5 - target, target) == 0


@pytest.mark.parametrize(("side", "expected"), [(4, 16 / 64), (8, 1.0), (16, 64 / 256)])
def test_iou_by_hand(side, expected):
    assert mask_iou(square(side) - 0.5, square(8)) == pytest.approx(expected)


def test_two_empty_masks_agree():
    empty = torch.zeros(5, 5)
    assert mask_iou(empty - 1, empty) == 1


def test_balanced_at_one_a_missed_speck_costs_what_a_missed_patch_costs():
    costs = [balanced_cross_entropy(torch.full((64, 64), -8.0), square(s, 64), 1.0) for s in (6, 30)]
    assert costs[0] == pytest.approx(float(costs[1]), rel=0.05)


def test_balanced_at_zero_a_wrong_pixel_beside_the_object_costs_what_it_costs_in_iou():
    target = square(20, 64)
    fat = 16 * (square(22, 64) - 0.5)
    thin = 16 * (square(18, 64) - 0.5)
    ratio = balanced_cross_entropy(fat, target, 0.0) / balanced_cross_entropy(thin, target, 0.0)
    assert 0.5 < ratio < 1.5
    assert balanced_cross_entropy(fat, target, 0.0) > 3 * balanced_cross_entropy(fat, target, 1.0)


@pytest.mark.parametrize("target", [torch.zeros(16, 16), torch.ones(16, 16)])
def test_empty_and_full_targets_stay_finite(target):
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    for balance in (0.0, 1.0):
        assert torch.isfinite(balanced_cross_entropy(logits, target, balance))
    assert torch.isfinite(dice_loss(logits, target))


def test_of_the_three_masks_the_best_is_taught_most():
    target = square(8)[None]
    logits = torch.stack([0.1 * (target[0] - 0.5), 2 * (target[0] - 0.5), -target[0], -target[0]])[None]
    logits.requires_grad_()
    prompt_loss(logits, torch.zeros(1, 4), target, 1.0).backward()
    strength = logits.grad[0, 1:].abs().sum((1, 2))
    assert strength[0] > 5 * strength[1]
    assert (strength > 0).all()


def test_the_predicted_iou_is_drawn_to_the_true_one():
    target = square(8)[None]
    logits = (target - 0.5).expand(1, 4, -1, -1)
    good = prompt_loss(logits, torch.ones(1, 4), target, 1.0)
    bad = prompt_loss(logits, torch.zeros(1, 4), target, 1.0)
    assert bad - good == pytest.approx(4.0)
