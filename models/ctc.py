"""Class Token Contrast (section 2.2, eq. 2): crops of non-salient regions are drawn to the whole object.

Of each training image, local crops are cut where the auxiliary CAM is unsure or says background. A crop that
holds some of the object must have a class token like the image's own; one of pure background must not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BACKGROUND, UNCERTAIN, FOREGROUND, PADDING = 0, 1, 2, 3
PURE = 0.99  # share of background from which on a crop is a negative
EPSILON = 1e-6  # ε of eq. 2
QUEUE = 256  # crops of no-defect images that are remembered as negatives


def regions(auxiliary_map: Tensor, label: Tensor, valid: Tensor, low: float, high: float) -> Tensor:
    """Where the auxiliary CAM sees the image's classes.

    auxiliary_map: (image, class, row, column) logits; label: (image, class) 0 or 1; valid: (image, row,
    column) bool. Each class's CAM is ReLU, divided by its maximum; M is the largest over present classes.
    Returns (image, row, column) int64: BACKGROUND where M ≤ low, FOREGROUND where M ≥ high, UNCERTAIN between,
    PADDING outside. An image without a class is BACKGROUND throughout.
    """
    cam = functional.relu(auxiliary_map) * valid[:, None]
    cam = cam / cam.amax((2, 3), keepdim=True).clamp(min=1e-6) * label[:, :, None, None]
    strongest = cam.amax(1)  # (image, row, column)
    found = torch.full_like(strongest, UNCERTAIN, dtype=torch.int64)
    found = found.masked_fill(strongest <= low, BACKGROUND).masked_fill(strongest >= high, FOREGROUND)
    return found.masked_fill(~valid, PADDING)


@dataclass(frozen=True)
class Crops:
    """Local crops of a batch.

    image: (crop,) int64, whose crop it is; box: (crop, 4) int64 pixels y0, x0, y1, x1 of that image;
    positive, negative: (crop,) bool; a crop that is neither takes no part.
    """

    image: Tensor
    box: Tensor
    positive: Tensor
    negative: Tensor


def choose_crops(found: Tensor, patch: int, side: int, count: int, generator: torch.Generator) -> Crops:
    """Draws crops centred in uncertain or background regions, and judges each by what lies in it.

    found: (image, row, column) from `regions`; patch: pixels a side of a patch; side: pixels of a crop;
    count: crops an image; generator: on the CPU. An image with no such region gives none.
    """
    owner, boxes = [], []
    for index, one in enumerate(found.cpu()):
        places = ((one == BACKGROUND) | (one == UNCERTAIN)).nonzero()  # (place, 2) row, column
        if len(places) == 0:
            continue
        chosen = places[torch.randint(len(places), (count,), generator=generator)]
        shift = torch.randint(patch, (count, 2), generator=generator)
        owner += [index] * count
        boxes.append(_boxes(chosen * patch + shift, _extent(one, patch), side))
    box = torch.cat(boxes) if boxes else torch.zeros(0, 4, dtype=torch.int64)
    image = torch.tensor(owner, dtype=torch.int64)
    positive, negative = judge(found.cpu(), patch, image, box)
    return Crops(image, box, positive, negative)


def _extent(found: Tensor, patch: int) -> Tensor:
    """(height, width) in pixels of the part of an image that is no padding."""
    inside = (found != PADDING).nonzero()
    return (inside.amax(0) + 1) * patch


def _boxes(centre: Tensor, extent: Tensor, side: int) -> Tensor:
    """(crop, 4) boxes about centres (crop, 2) y, x, moved so that they lie inside the extent."""
    side_yx = torch.minimum(torch.full_like(extent, side), extent)
    corner = torch.minimum((centre - side_yx // 2).clamp(min=0), extent - side_yx)
    return torch.cat([corner, corner + side_yx], 1)


def judge(found: Tensor, patch: int, image: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Which crops are positive, which negative: two (crop,) bool.

    Negative: at least 99 % background. Positive: not so, and it holds an uncertain or foreground patch. (The
    published rule, a mean of at most 0.2, calls a crop that is centred on a tiny defect negative.)
    """
    pixels = found.repeat_interleave(patch, 1).repeat_interleave(patch, 2)  # (image, y, x)
    positive, negative = [], []
    for owner, (top, left, bottom, right) in zip(image.tolist(), box.tolist(), strict=True):
        window = pixels[owner, top:bottom, left:right]
        pure = float((window == BACKGROUND).float().mean()) >= PURE
        some = bool(((window == UNCERTAIN) | (window == FOREGROUND)).any())
        negative.append(pure)
        positive.append(some and not pure)
    return torch.tensor(positive, dtype=torch.bool), torch.tensor(negative, dtype=torch.bool)


def cut(pixels: Tensor, crops: Crops, side: int) -> Tensor:
    """The crops' own pixels, resized.

    pixels: (image, channel, y, x), exactly the tensor whose CAM chose the boxes: a flip applied to the one
    and not to the other would make half of all crops wrong. Returns (crop, channel, side, side).
    """
    pieces = [
        functional.interpolate(
            pixels[owner : owner + 1, :, top:bottom, left:right],
            (side, side),
            mode="bilinear",
            align_corners=False,
        )
        for owner, (top, left, bottom, right) in zip(crops.image.tolist(), crops.box.tolist(), strict=True)
    ]
    return torch.cat(pieces) if pieces else pixels.new_zeros(0, pixels.shape[1], side, side)


def info_nce(anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Eq. 2 for one anchor, with the minus sign and the products that its printed form lacks.

    anchor: (dim,); positive: (n, dim); negative: (m, dim); all L2-normalised. Returns a scalar ≥ 0: 0 where
    there is no positive, about 0 where there is no negative.
    """
    if len(positive) == 0:
        return anchor.new_zeros(())
    close = positive @ anchor / temperature  # (n,)
    others = torch.cat(
        [negative @ anchor / temperature, anchor.new_full((1,), math.log(EPSILON))]
    )  # (m + 1,)
    every = torch.cat([close[:, None], others.expand(len(close), -1)], 1)
    return (every.logsumexp(1) - close).mean()


class TokenContrast(nn.Module):
    """The projections G (global) and F (local) of class tokens, and the negatives of no-defect images."""

    def __init__(self, dim: int, classes: int, width: int, *, temperature: float, momentum: float) -> None:
        """dim: of a token; width: of a projection; temperature: τ; momentum: ρ of G's moving average."""
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.local = nn.Linear(dim, width)
        self.whole = nn.Linear(dim, width).requires_grad_(False)
        self.whole.load_state_dict(self.local.state_dict())
        self.register_buffer("queue", torch.zeros(QUEUE, classes, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.queue: Tensor
        self.filled: Tensor

    @torch.no_grad()
    def follow(self) -> None:
        """G ← ρ·G + (1 − ρ)·F, once a step."""
        for slow, fast in zip(self.whole.parameters(), self.local.parameters(), strict=True):
            slow.mul_(self.momentum).add_(fast, alpha=1 - self.momentum)

    @torch.no_grad()
    def remember(self, tokens: Tensor) -> None:
        """Adds class tokens (crop, class, dim) of no-defect images to the negatives, the oldest leave."""
        projected = functional.normalize(self.local(tokens), dim=2)
        for one in projected:
            self.queue[int(self.filled) % QUEUE] = one
            self.filled += 1

    def loss(self, token: Tensor, label: Tensor, local_token: Tensor, crops: Crops) -> Tensor:
        """Mean of eq. 2 over images and their classes, each class with its own tokens.

        token: (image, class, dim) of whole images, used detached; label: (image, class); local_token:
        (crop, class, dim). Returns a scalar, 0 where nothing can be contrasted.
        """
        anchors = functional.normalize(self.whole(token.detach()), dim=2)  # p
        local = functional.normalize(self.local(local_token), dim=2)  # q
        kept = self.queue[: min(int(self.filled), QUEUE)]
        terms = []
        for image, which in (label > 0).nonzero().tolist():
            own = crops.image == image
            positive = local[own & crops.positive, which]
            if len(positive) == 0:
                continue
            negative = torch.cat([local[own & crops.negative, which], kept[:, which]])
            terms.append(info_nce(anchors[image, which].detach(), positive, negative, self.temperature))
        return torch.stack(terms).mean() if terms else local_token.sum() * 0
