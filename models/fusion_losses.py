"""Losses of the fusion network's training: agreement of P1 and P2, consistency of two views elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.agreement import UNKNOWN, evened
from models.fusion_patches import Batch, Patch

ABSENT = -30.0
"""Logit of a slot that a view does not have: its probability is 0 and it draws no gradient."""


def class_probabilities(logits: Tensor, step: Batch) -> Tensor:
    """Softmax over background (logit 0) and the slots of each view; absent slots get nothing.

    logits: (row, y, x). Returns (view, 1 + slot, y, x) float32 log-probabilities.
    """
    owner, place = (torch.from_numpy(x).to(logits.device) for x in (step.owner, step.place))
    shape = (len(step.turn), 1 + int(step.place.max()), *logits.shape[1:])
    full = torch.full(shape, ABSENT, device=logits.device)
    full[:, 0] = 0.0
    full = full.index_put((owner, place), logits.float())
    return functional.log_softmax(full, 1)


def agreement_loss(log_p: Tensor, slot: Tensor, weight: Tensor, foreground: float) -> Tensor:
    """Weighted cross-entropy at agreed pixels, foreground and background each averaged on its own.

    log_p: (view, 1 + slot, y, x); slot: (view, y, x) int64, 255 none; weight: (view, y, x) in [0, 1];
    foreground: the share of the loss that foreground has, in (0, 1). Finite (0) where nothing is agreed.
    """
    known = torch.where(slot == UNKNOWN, 0, slot)
    entropy = -log_p.gather(1, known[:, None])[:, 0]  # (view, y, x)
    weight = torch.where(slot == UNKNOWN, 0.0, weight)
    total = log_p.new_zeros(())
    for part, share in ((slot > 0, foreground), (slot == 0, 1 - foreground)):
        amount = weight * part
        total = total + share * (amount * entropy).sum() / amount.sum().clamp_min(1e-6)
    return total


def consistency_loss(log_p: Tensor, free: Tensor, turn: Sequence[int]) -> Tensor:
    """Squared difference between the two views of a patch where nothing is agreed.

    log_p: (view, 1 + slot, y, x), views 2i and 2i + 1 of one patch; free: (view, y, x) bool; turn: (view,).
    Returns the mean over free pixels, 0 where there are none.
    """
    p = torch.stack([_upright(item, view) for item, view in zip(log_p.exp(), turn, strict=True)])
    here = torch.stack([_upright(item, view) for item, view in zip(free, turn, strict=True)])[0::2]
    apart = (p[0::2] - p[1::2]).square().sum(1)  # (patch, y, x)
    return (apart * here).sum() / here.sum().clamp_min(1)


def _upright(x: Tensor, view: int) -> Tensor:
    """`turned_back` of models.fusion, on tensors."""
    straight = torch.rot90(x, -(0, 2, 1, 3)[view >> 1], dims=(-2, -1))
    return straight.flip(-1) if view & 1 else straight


def foreground_share(patches: Sequence[Patch], balance: float) -> float:
    """Foreground's share of the loss; see `evened`."""
    fore = sum(float(p.weight[(p.slot > 0) & (p.slot != UNKNOWN)].sum()) for p in patches)
    back = sum(float(p.weight[p.slot == 0].sum()) for p in patches)
    return evened(fore, back, balance)
