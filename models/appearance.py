"""How the defects of each class look in SAM's own features, learned over a whole set from what P1 and P2 agree on.

CAM and SAM judge every image alone: a piece that both miss in one image may look like those that they find in others.
A small network over SAM's embedding, one logit a class and cell, carries what is common to all images to each of them.
They are taught by the images of one fold and asked about those of the other, as the fusion network is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.agreement import UNKNOWN, Target, evened
from models.photometry import contrast

WIDTH = 48
DROPOUT = 0.1
BATCH = 8
RATE, DECAY = 2e-3, 0.02
EPOCHS, LEAST, MOST_A_STEP = 16, 200, 3
"""Passes over the images; fewest steps; most of them for each one that a fusion network may take, which comes first."""
WINDOW = 24
"""Cells a side that a step sees of an image: it looks no further than a cell away, and neighbours teach the same."""
BOUND = 4.0
"""Most that it says, in logits."""
BALANCE = 0.4
"""Exponent by which defect and ground are evened out in the loss. On 150 procedural surfaces of the time CAM, SAM and a look of
16 together came to mIoU 80.1, 81.6, 82.1 and 81.6 with 0, 0.25, 0.5 and 1; on 150 images of blue film, whose masks were
looked at, to 81.9, 81.4, 79.1 and 72.3. 0.4 lies between; it was not measured itself on either before it was taken."""
TURNS = tuple((turns, flip) for turns in range(4) for flip in (False, True))
"""Of a square of cells; its logits are averaged over all."""
BLURS = (1 / 16, 5 / 32)
"""Deviations, as shares of the image's longer side: how dark the surroundings are tells a wide stain from its ground,
which SAM's cells do not see."""
OWN = 4 + len(BLURS)
"""Planes that come from the pixels themselves, beside SAM's features."""


class Appearance(nn.Module):
    """Two small convolutions from SAM's features to a logit a class; it sees three cells wide."""

    def __init__(self, channels: int, classes: int) -> None:
        """channels: of SAM's features; classes: without background."""
        super().__init__()
        self.channels, planes = channels, channels + OWN
        self.register_buffer("mean", torch.zeros(planes))
        self.register_buffer("deviation", torch.ones(planes))
        self.register_buffer("trust", torch.zeros(classes))
        self.register_buffer("confirmed", torch.ones(classes))
        self.mean: Tensor
        self.deviation: Tensor
        self.trust: Tensor
        """How far each class is listened to, in [0, 1]; see `models.appearance_trust.trust_in`."""
        self.confirmed: Tensor
        """How far beside a user's marks, in [0, 1]; see `models.appearance_trust.confirmed_in`."""
        self.narrow = nn.Conv2d(planes, WIDTH, 1)
        self.near = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """feature: (n, channel + OWN, h, w), as of `seen_in`. Returns logits (n, class, h, w), each class against all else."""
        x = (feature - self.mean[:, None, None]) / self.deviation[:, None, None]
        x = functional.relu(self.narrow(functional.dropout(x, DROPOUT, self.training)))
        x = x + functional.relu(self.near(x))
        found: Tensor = self.head(functional.dropout(x, DROPOUT, self.training))
        return found


class Lesson(NamedTuple):
    """One image as the network learns from it, in cells of SAM's features.

    feature: (channel + OWN, h, w) float16, as of `seen_in`; asked: (asked,) int64, indices of the classes that its label
    names: of others it does not speak, but where it names none it says that there is none of any; target: (asked, h, w)
    float32, share of the known pixels that are of the class; weight: (h, w) float32 in [0, 1], 0 beyond the image;
    marked: (asked, h, w) bool, cells in which a user has marked the class and SAM, asked there, has outlined it.
    """

    feature: np.ndarray
    asked: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    marked: np.ndarray


def seen_in(feature: np.ndarray, image: np.ndarray) -> np.ndarray:
    """SAM's features of an image, and what its cells look like against the whole of it.

    feature: (channel, h, w), the longer side of the image spanning all cells; image: (y, x, channel=3) uint8.
    Returns (channel + OWN, h, w) float16: features; the means of the image's own channels, brought to mean 0 and
    deviation 1; the deviation of its grey values within a cell; their means, blurred by BLURS. 0 beyond the image.
    """
    cells = (feature.shape[1], feature.shape[2])
    norm = contrast(image)
    pixels = (image.astype(np.float32) - norm.mean) / norm.deviation
    grey = pixels.mean(-1)
    inside = _in_cells(np.ones(grey.shape, np.float32), cells)
    share = np.maximum(inside, 1e-6)
    mean, square = (_in_cells(each, cells) / share for each in (grey, grey**2))
    own = [_in_cells(pixels[..., c], cells) / share for c in range(3)]
    own.append(np.sqrt(np.maximum(square - mean**2, 0)))
    for blur in BLURS:  # weighted by what lies inside, so that nothing beyond the image counts
        spread = blur * max(cells)
        ground = np.maximum(cv2.GaussianBlur(inside, (0, 0), spread), 1e-6)
        own.append(cv2.GaussianBlur(mean * inside, (0, 0), spread) / ground)
    return np.concatenate([feature, np.stack(own) * (inside > 0)]).astype(np.float16)


def lesson(
    feature: np.ndarray,
    image: np.ndarray,
    target: Target,
    slot_class: np.ndarray,
    annotation: np.ndarray,
    p2: np.ndarray,
) -> Lesson:
    """An image's lesson.

    feature: (channel, h, w); image: (y, x, 3) uint8; target: of all its pixels; slot_class: (slot,) uint8, 0 unused;
    annotation, p2: (y, x) uint8 label maps, 255 unmarked and unknown.
    """
    cells = (feature.shape[1], feature.shape[2])
    weight = np.where(target.slot == UNKNOWN, 0, target.weight).astype(np.float32)  # (y, x)
    whole, used = _in_cells(weight, cells), np.flatnonzero(slot_class)
    shares = [
        _in_cells(weight * (target.slot == place + 1), cells) / np.maximum(whole, 1e-6) for place in used
    ]
    asked = slot_class[used].astype(np.int64) - 1
    shape = (len(used), *cells)
    marked = [
        _holds(annotation == k, cells) & _holds((p2 == k) & (annotation != k), cells)
        for k in slot_class[used]
    ]
    return Lesson(
        seen_in(feature, image),
        asked,
        np.reshape(shares, shape).astype(np.float32),
        whole,
        np.reshape(marked, shape).astype(bool),
    )


def _holds(pixels: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Cells (h, w) that hold some of these (y, x) pixels, bool."""
    return np.asarray(_in_cells(pixels.astype(np.float32), cells) > 0)


def _in_cells(pixels: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Means of (y, x) pixels over cells (h, w), of which the longer side of the image spans all."""
    side = max(pixels.shape)
    square = np.pad(pixels, [(0, side - n) for n in pixels.shape])
    return np.asarray(cv2.resize(square, cells[::-1], interpolation=cv2.INTER_AREA), np.float32)


def steps_of(images: int, max_steps: int) -> int:
    """Steps of a training on so many images, beside fusion networks of at most `max_steps`."""
    return min(MOST_A_STEP * max_steps, max(LEAST, EPOCHS * images // BATCH))


def teach(
    lessons: Sequence[Lesson],
    classes: int,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    report: Callable[[], None] | None = None,
) -> Appearance:
    """Train a network; the same lessons, steps and seed give the same weights.

    classes: without background; steps: as of `steps_of`; report: called after each of them.
    Returns it in evaluation mode, trusted in nothing yet. Raises ValueError where there is no lesson.
    """
    if not len(lessons):
        raise ValueError(
            "there is no image from which to learn what defects look like; run the stages before"
        )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = Appearance(lessons[0].feature.shape[0] - OWN, classes).to(device)
        _standardise(net, lessons)
        share, rng = _share(lessons), np.random.default_rng(seed)
        optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            drawn = [_window(rng, lessons[n]) for n in rng.integers(len(lessons), size=BATCH)]
            loss = _loss(net, drawn, TURNS[rng.integers(len(TURNS))], share)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rates.step()
            if report is not None:
                report()
    return net.eval().requires_grad_(False)


def _standardise(net: Appearance, lessons: Sequence[Lesson]) -> None:
    """Mean and deviation of each channel over all images, as they are in SAM's scale, whatever that is."""
    means, squares = [], []
    for one in lessons:
        seen = one.feature.any(0)  # beyond the image all is 0, and would count for much in a narrow one
        inside = one.feature[:, seen if seen.any() else ~seen].astype(np.float32)  # (channel, cell)
        means.append(inside.mean(1))
        squares.append(np.square(inside).mean(1))
    mean = np.mean(means, 0)
    variance = np.maximum(np.mean(squares, 0) - mean**2, 0)
    net.mean.copy_(torch.from_numpy(mean))
    net.deviation.copy_(torch.from_numpy(np.sqrt(variance) + 1e-3))


def _share(lessons: Sequence[Lesson]) -> float:
    """Defects' share of the loss."""
    fore = sum(float((one.target * one.weight).sum()) for one in lessons)
    back = sum(float(((1 - one.target.sum(0)) * one.weight).sum()) for one in lessons)
    return evened(fore, back, BALANCE)


def _window(rng: np.random.Generator, one: Lesson) -> Lesson:
    """WINDOW × WINDOW cells of an image round one of its known cells, every other time of its defects where it has some.

    Cells at a border that is the window's alone teach nothing: their neighbours are there, but not seen.
    """
    defect = (one.target * one.weight).sum(0) > 0 if rng.random() < 0.5 else np.zeros_like(one.weight, bool)
    around = np.argwhere(defect if defect.any() else one.weight > 0)
    middle = around[rng.integers(len(around))] if len(around) else np.zeros(2, int)
    last = np.maximum(0, np.subtract(one.weight.shape, WINDOW))
    first = np.clip(middle - WINDOW // 2, 0, last).tolist()
    seen = (..., slice(first[0], first[0] + WINDOW), slice(first[1], first[1] + WINDOW))
    weight = one.weight[seen].copy()
    for axis, (start, cells) in enumerate(zip(first, one.weight.shape, strict=True)):
        lines = np.moveaxis(weight, axis, 0)
        lines[: int(start > 0)] = 0
        lines[len(lines) - int(start + WINDOW < cells) :] = 0
    return Lesson(one.feature[seen], one.asked, one.target[seen], weight, one.marked[seen])


def _loss(net: Appearance, drawn: Sequence[Lesson], turn: tuple[int, bool], share: float) -> Tensor:
    """Weighted cross-entropy of the classes that each image may speak of, defect and ground averaged apart."""
    device = net.mean.device
    feature = torch.from_numpy(np.stack([one.feature for one in drawn])).to(device).float()
    logits = _back(net(_turned(feature, turn)), turn)  # (image, class, h, w)
    target, weight = torch.zeros_like(logits), torch.zeros_like(logits)
    for n, one in enumerate(drawn):
        asked = torch.from_numpy(one.asked if len(one.asked) else np.arange(logits.shape[1])).to(device)
        weight[n, asked] = torch.from_numpy(one.weight).to(device)
        if len(one.asked):
            target[n, asked] = torch.from_numpy(one.target).to(device)
    total = logits.new_zeros(())
    for part, amount, signed in (
        (share, target * weight, -logits),
        (1 - share, (1 - target) * weight, logits),
    ):
        total = total + part * (amount * functional.softplus(signed)).sum() / amount.sum().clamp_min(1e-6)
    return total


def _turned(x: Tensor, turn: tuple[int, bool]) -> Tensor:
    turned = torch.rot90(x, turn[0], (-2, -1))
    return turned.flip(-1) if turn[1] else turned


def _back(x: Tensor, turn: tuple[int, bool]) -> Tensor:
    straight = x.flip(-1) if turn[1] else x
    return torch.rot90(straight, -turn[0], (-2, -1))


@torch.inference_mode()
def look(
    net: Appearance | None,
    feature: np.ndarray,
    image: np.ndarray,
    classes: np.ndarray,
    mean: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """What the features and the pixels of an image say of some classes, a number a pixel: 0 surely not, 1 surely, 0.5 nothing.

    net: None says nothing; feature: (channel, h, w), as stage `mask` writes it; classes: (slot,) uint8 from 1, of
    which one that came after the training gets 0.5; image: (y, x, 3) uint8, true extent; mean: (slot, y, x) in [0, 1],
    SAM's votes, which give the outlines (see `outlined`), but where its weight (y, x) is 0.
    Returns (slot, y, x) float32: logits within ±BOUND, times the trust in that class, brought to [0, 1].
    Raises ValueError for the features of another SAM than the one whose features it learned from.
    """
    size = (image.shape[0], image.shape[1])
    found = np.full((len(classes), *size), 0.5, np.float32)
    if net is None or not len(classes):
        return found
    if len(feature) != net.channels:
        raise ValueError(
            f"the fusion network learned from features of {net.channels} channels, and this SAM gives {len(feature)}: it is "
            "another SAM; leave train_fusion.checkpoint out, and a network is trained for this one"
        )
    x = torch.from_numpy(seen_in(feature, image)).to(net.mean.device).float()[None]
    shares = torch.sigmoid(judged(net, x)).cpu().numpy()  # (class, h, w)
    trust = net.trust.cpu().numpy()
    for slot, k in enumerate(classes.tolist()):
        if k <= len(shares):
            coarse = _in_pixels(shares[k - 1], size)
            share = np.where(weight > 0, outlined(coarse, mean[slot], shares.shape[1:]), coarse)
            logit = np.log(np.maximum(share, 1e-6) / np.maximum(1 - share, 1e-6))
            found[slot] = trust[k - 1] * np.clip(logit / BOUND, -1, 1) / 2 + 0.5
    return found


def outlined(share: np.ndarray, mean: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """What a coarse share of defect means for each pixel, given SAM's outline of it.

    A cell that a thin scratch crosses holds little of it, and one beside a wide defect holds some. So the share is held
    against the one that the cell would have if SAM were right: within SAM's outline a pixel is a defect as far as the
    expected share is there, outside it as far as there is more than that.
    share: (y, x) in [0, 1], interpolated from cells (h, w); mean: (y, x) in [0, 1], SAM's votes. Returns (y, x) float32.
    """
    size = (mean.shape[0], mean.shape[1])
    votes = mean.astype(np.float32)
    whole = np.maximum(_in_cells(np.ones(size, np.float32), cells), 1e-6)
    expected = _in_pixels(_in_cells(votes, cells) / whole, size)
    within = np.clip(share / np.maximum(expected, 1e-3), 0, 1)
    beyond = np.clip((share - expected) / np.maximum(1 - expected, 1e-3), 0, 1)
    return np.asarray(votes * within + (1 - votes) * beyond, np.float32)


def _in_pixels(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) cells, of which the image's longer side spans all, interpolated to its (y, x) pixels."""
    side = max(size)
    square = cv2.resize(np.asarray(cells, np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(square[: size[0], : size[1]])


def judged(net: Appearance, x: Tensor) -> Tensor:
    """Logits of one image, x (1, channel + OWN, h, w), averaged over TURNS: (class, h, w)."""
    return torch.stack([_back(net(_turned(x, turn)), turn) for turn in TURNS]).mean(0)[0]
