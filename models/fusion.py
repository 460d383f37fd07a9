"""The fusion network: image, CAM, SAM's votes and the look of its features in, one probability a class and pixel out."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.agreement import marked, spoken
from models.appearance import Appearance
from models.checkpoints import load_checkpoint
from models.photometry import Contrast, contrast
from models.tiling import tiles, widened, within

EVIDENCE = ("cam", "mean", "entropy", "look")
"""Planes of what is said about a slot; `look` is what `models.appearance` says."""
CHANNELS = 3 + len(EVIDENCE)
"""Planes that a slot's input holds: red, green, blue, and EVIDENCE."""
SHOWN = CHANNELS - 1
"""Those that the convolutions see: not the look, which other images have taught, those among them that the network fuses."""
FOLDS = 2
MULTIPLE = 8
"""The network halves its input three times."""
REACH = 160
"""Pixels: no output depends on input farther away, so tiles that overlap by it equal the whole."""

UNSAID = (0.5, 0.5, 1.0, 0.5)
"""Evidence that says nothing: what stands where a source is not to be listened to."""
SAID = (2.0, 5.0, 0.0, 12.0)
"""Logits between a full no and a full yes of each, around background's 0; entropy is for the network to read. A full yes of
the look is rare. Measured on 150 procedural surfaces, whose masks are known: mIoU of CAM alone 71.4, of SAM alone 79.6, of
both as (3, 5) 78.5; then with a look of 8, 12, 16 and 24 it is 80.3, 81.4, 81.7 and 81.8. Those from 12 on are as good as equal
there; the smallest was taken as blue film, whose masks were looked at, loses by more (80.2 by SAM alone, 79.1 with 16). The
CAM counts 2, as with half of its weight P gained there. With these, 150 others came to 83.7 without a look, 85.2 with one,
and 85.6 with one that takes SAM's outline (SAM alone: 84.1)."""
BESIDE_MARKS = 0.25
"""At most, what is left of the look and of the convolutions where SAM was asked by a person: it was shown every piece, and what other
images have taught outlines them worse. (So a piece without a mark, of a class with marks in the same image, is hardly found.) Measured on 150 procedural surfaces with a point on each piece: mIoU of SAM alone 92.4, with all of the look 92.9,
with a half and a quarter 93.3 and 93.4. On 70 others, with a weaker SAM (86.1 alone), all, a half, a quarter and nothing of
the convolutions: 86.1, 86.4, 86.5 and 86.6."""
BOUND = 1.0
"""Most that the convolutions add or take, in logits: enough to decide where the others hardly speak, too little to
overrule SAM or the look. A trained network's own `bound` is mostly lower, as models.fusion_trust finds out. With 3 it
cost blue film 1.6 mIoU (150 images, one seed), and SD-saliency-900 chose 0."""
KIND = "fusion"
"""The metadata entry that marks a checkpoint as ours."""

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FusionShape:
    """Sizes of the network: channels at full, half, quarter and eighth resolution."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 80)


class Block(nn.Module):
    """Two 3×3 convolutions added to what came in.

    There is no normalisation, so no statistics over space, padding or neighbours; instead the second
    convolution starts at 0, and a deep stack starts as the identity.
    """

    def __init__(self, width: int, dilation: int = 1) -> None:
        """width: channels in and out; dilation: spacing of the taps, in pixels of this resolution."""
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, channel, y, x). Returns the same shape."""
        grown: Tensor = self.second(functional.relu(self.first(functional.relu(x))))
        return x + grown


class FusionNet(nn.Module):
    """A small U-Net that looks about 100 pixels far and gives one logit a pixel for one slot."""

    def __init__(self, shape: FusionShape | None = None) -> None:
        """shape: channels at each resolution."""
        super().__init__()
        full, half, quarter, eighth = (shape or FusionShape()).widths
        self.stem = nn.Conv2d(SHOWN, full, 3, padding=1)
        widths = (full, half, quarter, eighth)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(Block(width) for width in widths[:-1])
        self.context = nn.Sequential(Block(eighth), Block(eighth, 2), Block(eighth, 4))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(Block(width) for width in widths[:-1])
        self.head = nn.Conv2d(full, 1, 1)
        self.register_buffer("bound", torch.tensor(BOUND))
        self.bound: Tensor
        for parameter in self.head.parameters():  # training starts from what the others say, and betters it
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Logit of the slot's class against background's 0.

        x: (n, CHANNELS, y, x), y and x multiples of 8, as `planes` makes it. Returns (n, y, x).
        """
        said = said_of(x)
        x = self.stem(x[:, :SHOWN])
        kept = []
        for block, down in zip(self.encode, self.down, strict=True):
            x = block(x)
            kept.append(x)
            x = down(x)
        x = self.context(x)
        for level in (2, 1, 0):
            x = functional.interpolate(self.up[level](x), scale_factor=2, mode="bilinear")
            x = self.decode[level](x + kept[level])
        seen = self.head(functional.relu(x))[:, 0].float()  # (n, y, x)
        bound = self.bound.clamp(min=1e-3)
        return said + bound * torch.tanh(seen / bound)


def said_of(x: Tensor) -> Tensor:
    """Logits of what CAM, SAM and the look say together; x: (n, CHANNELS, y, x) from `planes`. Returns (n, y, x) float32."""
    weights = torch.tensor(SAID, device=x.device)
    return (x[:, -len(SAID) :].float() * weights[:, None, None]).sum(1)


class Fusion(nn.Module):
    """One network a fold: fold f's images are fused by `nets[f]`, which never saw one of them in training."""

    def __init__(self, shape: FusionShape | None = None, features: tuple[int, int] | None = None) -> None:
        """shape: channels at each resolution, the same for all folds.

        features: channels of SAM's features and number of classes, for the networks that judge the look; None: there
        are none, and the look says nothing.
        """
        super().__init__()
        self.shape, self.features = shape or FusionShape(), features
        self.nets = nn.ModuleList(FusionNet(self.shape) for _ in range(FOLDS))
        self.appearances = nn.ModuleList(Appearance(*features) for _ in range(FOLDS)) if features else None

    def appearance(self, fold: int) -> Appearance | None:
        """The network that judges the look of a fold's images."""
        found = None if self.appearances is None else self.appearances[fold]
        return found if isinstance(found, Appearance) else None


def fold_of(sha256: np.ndarray) -> int:
    """Which fold an image belongs to, from its digest alone: it stays there whatever its neighbours are.

    sha256: (byte=32,) uint8. Returns 0 or 1.
    """
    return int(sha256[-1]) % FOLDS


def planes(image: np.ndarray, evidence: np.ndarray, norm: Contrast) -> np.ndarray:
    """The network's input for one slot.

    image: (y, x, channel=3) uint8; evidence: (EVIDENCE, y, x) in [0, 1];
    norm: of the whole image, also where `image` is a part of it.
    Returns (CHANNELS, y, x) float32; evidence is centred on 0.5, so that a source that says nothing (UNSAID)
    does not move the logit.
    """
    grey = (image.astype(np.float32) - norm.mean) / norm.deviation  # (y, x, channel)
    return np.concatenate([grey.transpose(2, 0, 1), evidence.astype(np.float32) - 0.5])


def heard(
    evidence: np.ndarray, weight: np.ndarray, annotation: np.ndarray, classes: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Silence SAM where it was found out, and CAM and look where a user knows better.

    SAM missed a piece of the CAM, or invented one, where its weight is 0. Of a class that is marked in the image the CAM
    speaks where marks confirm it.
    evidence: (slot, EVIDENCE, y, x) in [0, 1]; weight: (y, x) of the ensemble; annotation: (y, x) uint8 label map, 255
    unmarked; classes: (slot,) uint8; others: (slot,), of `others_heard`, for the look. Returns a float32 array of
    evidence's shape.
    """
    out = evidence.astype(np.float32)
    out[:, 0] = np.where(spoken(evidence[:, 0], annotation, classes), out[:, 0], UNSAID[0])
    less = others < 1
    out[less, 3] = UNSAID[3] + others[less, None, None] * (out[less, 3] - UNSAID[3])
    out[:, 1:3] = np.where(weight == 0, np.reshape(UNSAID[1:3], (2, 1, 1)), out[:, 1:3])
    return out


def others_heard(net: Appearance | None, annotation: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How far what other images have taught, look and convolutions, is listened to in an image.

    Of a class that the user marked there BESIDE_MARKS, and less as far as marks refute the look; wholly of others.
    net: of the look; annotation: (y, x) uint8 label map, 255 unmarked; classes: (slot,) uint8 from 1. Returns (slot,)
    float32 in [0, 1].
    """
    found = np.ones(len(classes), np.float32)
    here = marked(annotation, classes)
    found[here] = BESIDE_MARKS
    if net is not None:
        here &= classes <= len(net.confirmed)  # not those that came after the training
        found[here] *= net.confirmed.cpu().numpy()[classes[here].astype(np.int64) - 1]
    return found


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Arithmetic in bfloat16 where asked for, else as the weights are."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def reflect(x: np.ndarray, multiple: int = MULTIPLE) -> np.ndarray:
    """Mirror the last two axes outwards, at the bottom and right, to the next multiple."""
    height, width = x.shape[-2:]
    pad = [(0, 0)] * (x.ndim - 2) + [(0, -height % multiple), (0, -width % multiple)]
    return np.pad(x, pad, mode="reflect")


@torch.inference_mode()
def logits(net: FusionNet, x: np.ndarray, precision: Precision, tile: int = 768) -> np.ndarray:
    """Run one fold's network over whole images, in tiles where they are large.

    x: (slot, CHANNELS, y, x) float32, true extent, any size; tile: side in pixels, a multiple of 8; tiles
    overlap by REACH, so the result is that of the whole image up to rounding.
    Returns (slot, y, x) float32.
    """
    device = next(net.parameters()).device
    height, width = x.shape[-2:]
    framed = reflect(x)
    out = np.empty((len(x), *framed.shape[-2:]), np.float32)
    for core in tiles(framed.shape[-2], framed.shape[-1], tile):
        rows, columns = (
            widened(part, limit, REACH) for part, limit in zip(core, framed.shape[-2:], strict=True)
        )
        part = torch.from_numpy(np.ascontiguousarray(framed[..., rows, columns])).to(device)
        with autocast(device, precision):
            found = net(part.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
        out[:, *core] = found[:, within(core[0], rows), within(core[1], columns)]
    return out[:, :height, :width]


def turned(x: np.ndarray, view: int) -> np.ndarray:
    """The view-th of the 8 flips and quarter turns of the last two axes; 0 leaves x as it is."""
    flipped = x[..., ::-1] if view & 1 else x
    return np.rot90(flipped, _TURNS[view >> 1], axes=(-2, -1))


def turned_back(x: np.ndarray, view: int) -> np.ndarray:
    """Inverse of `turned`: the turn is undone first, then the flip."""
    straight = np.rot90(x, -_TURNS[view >> 1], axes=(-2, -1))
    return straight[..., ::-1] if view & 1 else straight


_TURNS = (0, 2, 1, 3)  # the first four views keep the image's shape


def probabilities(
    model: Fusion,
    image: np.ndarray,
    evidence: np.ndarray,
    fold: int,
    others: np.ndarray | None = None,
    *,
    views: int = 1,
    precision: Precision = "float32",
) -> np.ndarray:
    """Probability of background and of each slot's class, by the network not trained on the image.

    image: (y, x, channel=3) uint8, true extent; evidence: (slot, EVIDENCE, y, x) in [0, 1];
    fold: of the image (`fold_of`); others: (slot,), of `others_heard`, for what the convolutions add, None is all; views: 1 to 8 flips and turns over which logits are averaged.
    Returns (1 + slot, y, x) float32, background first, summing to 1 at each pixel.
    """
    net, norm = model.nets[fold], contrast(image)
    if not isinstance(net, FusionNet):
        raise TypeError(f"fold {fold} holds a {type(net).__name__}, expected FusionNet")
    x = np.stack([planes(image, slot, norm) for slot in evidence])  # (slot, channel, y, x)
    total = np.mean([turned_back(logits(net, turned(x, v), precision), v) for v in range(views)], 0)
    if others is not None and (others < 1).any():
        said = said_of(torch.from_numpy(x)).numpy()
        total = said + others[:, None, None] * (total - said)
    full = np.concatenate([np.zeros_like(total[:1]), total])  # (1 + slot, y, x): background's logit is 0
    spread = np.exp(full - full.max(0))
    return np.asarray(spread / spread.sum(0), np.float32)


def metadata_of(model: Fusion, **about: Any) -> dict[str, str]:
    """What a checkpoint must say so that `load_fusion` can rebuild the network, and what else is known of it.

    All of it is one entry: safetensors writes several in an order of its own, and equal networks would get
    different digests.
    """
    described = asdict(model.shape) | {"features": model.features}
    return {KIND: json.dumps(about | described, sort_keys=True)}


def load_fusion(path: Path, device: str = "cpu") -> Fusion:
    """Rebuild the networks of both folds from a checkpoint, in evaluation mode, on `device`.

    Raises FileNotFoundError where there is none, ValueError where it holds another kind of network.
    """
    tensors, metadata = load_checkpoint(path)
    if KIND not in metadata:
        raise ValueError(
            f"{path}: holds no fusion network (its metadata: {sorted(metadata)}); name a checkpoint made by "
            "the fusion training"
        )
    about = json.loads(metadata[KIND])
    features = about.get("features")
    model = Fusion(FusionShape(tuple(about["widths"])), tuple(features) if features else None)
    known = {name: tensor.float() for name, tensor in tensors.items()}
    if features:  # networks of before there were these are trusted
        whole = {
            f"appearances.{fold}.{name}": torch.ones(features[1])
            for fold in range(FOLDS)
            for name in ("trust", "confirmed")
        }
        known = whole | known
    model.load_state_dict(known)
    return model.to(memory_format=torch.channels_last).to(torch.device(device)).eval()
