"""How far the fusion network may listen to the image: as far as that helped on images that it never saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from models.agreement import UNKNOWN
from models.fusion import BOUND, UNSAID, FusionNet, Precision, logits, planes, said_of
from models.fusion_patches import Patch

BOUNDS = (0.0, 0.25, 0.5, 0.75, BOUND)
"""What is tried."""
MOST = 150
"""Patches that are looked at: a log-likelihood over that many is steady."""
SOURCES = ((0,), (1, 2))
"""Planes of evidence that are silenced in turn: the CAM; SAM's mean and entropy."""


@torch.inference_mode()
def warranted(net: FusionNet, unseen: Sequence[Patch], precision: Precision) -> float:
    """Most logits that image and surroundings may add or take in a trained network.

    With CAM or SAM silenced, what P1 and P2 together say of images that the network was not trained on is
    predicted from the other one, the look and the image. The bound is the one under which that is likeliest; the lower one,
    where the two differ. So a network that learned nothing from a small set is not heard, and no mask was read to
    find that out. (One number is read off the images that the network will fuse; no weight is.)
    unseen: patches of the fold that the network will fuse. Returns one of BOUNDS; 0 where nothing is known.
    """
    best = []
    for silenced in SOURCES:
        likelihood, weights = np.zeros((len(BOUNDS), 2)), np.zeros(2)  # ground and defect count alike
        for patch in unseen[:: max(1, math.ceil(len(unseen) / MOST))]:
            for said, seen, target, weight in _answers(net, patch, silenced, precision):
                for part in (0, 1):
                    here = weight * (target == part)
                    weights[part] += here.sum()
                    likelihood[:, part] += [(here * _fit(said, seen, bound, part)).sum() for bound in BOUNDS]
        if not weights.all():
            return 0.0
        best.append(int((likelihood / weights).sum(1).argmax()))
    return BOUNDS[min(best)]


def _answers(
    net: FusionNet, patch: Patch, silenced: tuple[int, ...], precision: Precision
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each slot, (y, x) each: logits of what is said, unbounded logits of what is seen, target, weight."""
    for place, bytes_ in enumerate(patch.evidence, start=1):
        evidence = bytes_ / np.float32(255)
        for plane in silenced:
            evidence[plane] = UNSAID[plane]
        x = planes(patch.image, evidence, patch.norm)
        said = said_of(torch.from_numpy(x)[None])[0].numpy()
        target = np.where(patch.slot == UNKNOWN, UNKNOWN, patch.slot == place)
        yield said, net_alone(net, x, said, precision), target, patch.weight / np.float32(255)


def net_alone(net: FusionNet, x: np.ndarray, said: np.ndarray, precision: Precision) -> np.ndarray:
    """What a network adds to what is said, without a bound: (y, x) float32 logits."""
    before, free = net.bound.clone(), 1e6
    net.bound.fill_(free)
    try:
        return np.asarray(logits(net, x[None], precision)[0] - said)
    finally:
        net.bound.copy_(before)


def _fit(said: np.ndarray, seen: np.ndarray, bound: float, part: int) -> np.ndarray:
    """Log-likelihood of defect (part 1) or ground (part 0), (y, x)."""
    total = said + bound * np.tanh(seen / bound) if bound else said
    return np.asarray(-np.logaddexp(0, -total if part else total))
