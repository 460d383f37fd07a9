"""How far the look of defects is listened to: as far as it is right about images that did not teach it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.appearance import BOUND, Appearance, Lesson, judged

VOLUMES = np.linspace(0, 1, 21)
"""What is tried."""


@torch.inference_mode()
def trust_in(net: Appearance, taught: Sequence[Lesson], unseen: Sequence[Lesson]) -> np.ndarray:
    """How far a network may be listened to: how well it tells defects from ground in images that did not teach it.

    For each class, 2 AUROC - 1 over the cells of the unseen images that are asked for it: 1 where every cell of a defect
    lies above all others, 0 where they lie in no order; but at most the volume that fits what it says (see `_volume`), as cells
    that lie in order may yet all be called ground. A class that no teacher shows gets 0, and so does one that no
    unseen image shows. One number a class is read off the images that the network will judge; no weight is, and no mask.
    taught, unseen: what the network learned from, and the others. Returns (class,) float32 in [0, 1].
    """
    trust = np.zeros(len(net.trust), np.float32)
    shown = {int(k) for one in taught for k in one.asked[_shows(one)]}
    found: dict[int, list[np.ndarray]] = {k: [] for k in shown}
    for one in unseen:
        if len(one.asked):
            x = torch.from_numpy(one.feature).to(net.mean.device).float()[None]
            logits = judged(net, x).cpu().numpy()  # (class, h, w)
            for k, target in zip(one.asked.tolist(), one.target, strict=True):
                if k in shown:
                    known = one.weight > 0
                    found[k].append(np.stack([logits[k][known], target[known], one.weight[known]]))
    for k, cells in found.items():
        if cells:
            known = np.concatenate(cells, 1)
            trust[k] = min(max(0.0, 2 * _auroc(*known) - 1), _volume(*known))
    return trust


@torch.inference_mode()
def confirmed_in(net: Appearance, unseen: Sequence[Lesson]) -> np.ndarray:
    """How far a network may be listened to beside a user's marks: as far as it knows of what they marked.

    What a user marked as a class is one, which is known without a mask; CAM and SAM, from which the network learned,
    may have missed the like of it in every image. So of each class 2 s - 1 is taken (a coin would know half), where s is the
    share of marked cells in which it sees at least half as much of the class as SAM's outline fills: in images that did not
    teach it, each image counting alike. 1 for a class that none of them marks. It measures misses alone: marks of the
    ground do not count, as what is wrongly found has SAM's word against it beside a mark.

    It holds beside marks alone: users mark where the pipeline was wrong, and elsewhere the network may be right.
    Devised after a look at the masks of magnetic tiles: of fray and uneven the network took 50 000 pixels from SAM there, 45 000
    of them wrongly, and knew of 36 and 11 % of the marks. Measured on 70 procedural surfaces with a point on each piece: mIoU
    86.0 without it, 86.2 with it (SAM alone: 86.1), AUROC of confidence 89.4 and 92.7; then, with the convolutions
    at `models.fusion.BESIDE_MARKS`, 86.35 without it and 86.53 with it (92.6); with neither of the two heard at all 86.8, but an AUROC of 83.3.
    unseen: the images that the network will judge. Returns (class,) float32 in [0, 1].
    """
    shares: dict[int, list[float]] = {}
    for one in unseen:
        if one.marked.any():
            x = torch.from_numpy(one.feature).to(net.mean.device).float()[None]
            found = torch.sigmoid(judged(net, x)).cpu().numpy()  # (class, h, w)
            for k, here, target in zip(one.asked.tolist(), one.marked, one.target, strict=True):
                if here.any():
                    shares.setdefault(k, []).append(float((found[k] >= target / 2)[here].mean()))
    confirmed = np.ones(len(net.confirmed), np.float32)
    for k, of_images in shares.items():
        confirmed[k] = max(0.0, 2 * float(np.mean(of_images)) - 1)
    return confirmed


def _shows(one: Lesson) -> np.ndarray:
    """Which of the classes that an image is asked for it shows somewhere: (asked,) bool."""
    return np.asarray((one.target * one.weight).sum((1, 2)) > 0)


def _auroc(value: np.ndarray, share: np.ndarray, weight: np.ndarray) -> float:
    """Chance that a cell of a defect lies above one of ground; each counts by its share and weight. 0.5 without either."""
    place = np.unique(value, return_inverse=True)[1]  # cells of equal value are in no order
    defect, ground = (np.bincount(place, weight * part) for part in (share, 1 - share))
    if not defect.sum() or not ground.sum():
        return 0.5
    return float((defect * (ground.cumsum() - ground / 2)).sum() / (defect.sum() * ground.sum()))


def _volume(value: np.ndarray, share: np.ndarray, weight: np.ndarray) -> float:
    """Share, in [0, 1], of its own logits with which a network would best predict what it is asked: 1 if it is calibrated.

    value: (cell,) logits; share, weight: (cell,), as in `_auroc`. That with the highest likelihood, defect and ground counting
    alike; 0 says that silence fits better. Measured without a real mask on procedural sets that share their surface and style, by
    mIoU of P without it and with it: 15 images, of which the look had one class lost wholly, 59.5 and 67.6 (SAM alone 66.4);
    15 others 60.9 and 60.9 (59.9); 45 52.7 and 52.5 (49.8); 150 67.7 and 67.8 (70.3). That what P1 and P2 both call a class
    stays one in P, tried instead, came to 66.1, 60.8, 52.5 and 67.6.
    """
    said = np.clip(value, -BOUND, BOUND)
    defect, ground = weight * share, weight * (1 - share)
    fits = [
        -(defect * np.logaddexp(0, -part * said)).sum() / max(defect.sum(), 1e-6)
        - (ground * np.logaddexp(0, part * said)).sum() / max(ground.sum(), 1e-6)
        for part in VOLUMES
    ]
    return float(VOLUMES[int(np.argmax(fits))])
