"""Losses of SAM's training: how far each of the decoder's masks is from its target."""

import torch
from torch import Tensor
from torch.nn import functional as F


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - the Dice coefficient of the mask's probabilities.

    logits: (..., y, x) float; target: the same, 0 / 1. Returns (...) float in [0, 1].
    """
    p = logits.sigmoid()
    overlap = (p * target).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def balanced_cross_entropy(logits: Tensor, target: Tensor, balance: float) -> Tensor:
    """Binary cross-entropy in which a small object weighs as much as a large background.

    logits: (..., y, x) float; target: the same, 0 / 1. balance 1: object and background weigh a half each, which
    finds objects fast but draws them fat; balance 0: every wrong pixel weighs about 1 / (2 x the object's
    area), which is what it costs in IoU. Between: linear. Returns (...) float >= 0.
    """
    error = F.softplus(logits) - logits * target
    area = target.sum((-2, -1))
    rest = target.shape[-1] * target.shape[-2] - area
    outside = balance * 0.5 / (rest + 1) + (1 - balance) * 0.5 / (area + 100)  # no object: no division by 0
    on_object = (error * target).sum((-2, -1)) * 0.5 / (area + 1)
    return on_object + (error * (1 - target)).sum((-2, -1)) * outside


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of the masks (logits > 0) with their targets; (..., y, x) to (...) float in [0, 1]; 1 if both empty."""
    guess, truth = logits > 0, target > 0.5
    union = (guess | truth).sum((-2, -1))
    return torch.where(union > 0, (guess & truth).sum((-2, -1)) / union.clamp(min=1), 1.0)


def prompt_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, balance: float) -> Tensor:
    """Loss of one decoder pass: the single mask, the best of the three, and the predicted IoU of all.

    logits: (g, 4, y, x), the single mask first; predicted_iou: (g, 4); target: (g, y, x) float 0 / 1. Of the three
    masks only the best is taught, so that they may differ where a prompt is ambiguous; a twentieth of the
    mean keeps the others alive. Returns a scalar.
    """
    truth = target[:, None].expand_as(logits)  # (g, 4, y, x)
    each = dice_loss(logits, truth) + balanced_cross_entropy(logits, truth, balance)  # (g, 4)
    single, three = each[:, 0], each[:, 1:]
    quality = (predicted_iou - mask_iou(logits.detach(), truth)).square().sum(1)  # (g,)
    return (three.min(1).values + 0.5 * single + 0.05 * three.mean(1) + quality).mean()
