"""Config sections of the stages: each key with its unit and the reason for its default."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """A frozen part of the config that refuses keys it does not know."""

    # defaults are validated like given values, or 1 and 1.0 would be two fingerprints
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


def _above_low(high: float, info: ValidationInfo) -> float:
    low = info.data.get("low", 0.0)
    if high < low:
        raise ValueError(f"it is below low = {low:g}; what lies between the two is undecided")
    return high


class SamConfig(Section):
    """Which Segment Anything Model."""

    model: Literal["tiny", "vit_b", "vit_l", "vit_h"] = "tiny"
    """`tiny` comes with bluemask (procedural training, 192² input); the others are the official ones."""
    checkpoint: Path | None = None
    """The official checkpoint file; none looks in the cache folder, then downloads it."""


class AugmentConfig(Section):
    """The views of an image."""

    views: int = Field(default=8, ge=1, le=64)
    """Views an image, the identity among them: the paper's eight mirrors and turns. The cost of `embed` and
    `mask` grows with it; below 3 no pixel gets an entropy."""
    flips: bool = True
    """Mirrors of x and of y: surfaces have no handedness."""
    turns: bool = True
    """Quarter turns: exact on the pixel grid, unlike other angles."""
    scales: tuple[float, ...] = (1, 2)
    """Scales, assigned to the views in turn. Without 0.5, as the embedded SAM reads 192² pixels and
    lost 1.1 of the pieces' mean IoU by it on 110 procedural surfaces; the paper's are 0.5, 1 and 2."""
    scale_mode: Literal["canvas", "resize"] = "canvas"
    """`canvas`: ×2 is a quadrant, ×0.5 a padded canvas, so that SAM sees another scale; `resize`: the paper's,
    in which SAM's own resize undoes ×2 (it counts as ×1) and ×0.5 blurs."""
    seed: int = Field(default=0, ge=0)
    """Of the draw of views, together with the image's content."""

    @field_validator("scales")
    @classmethod
    def _known_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not set(value) <= {0.5, 1, 2}:
            raise ValueError("must hold some of 0.5, 1 and 2")
        return value


class EmbedConfig(Section):
    """SAM's image encoder."""

    batch: int = Field(default=8, ge=1)
    """Most views a call; lower it where memory is short, raise it for a GPU that has room: as many whole images as
    fit share a call. A CPU gains nothing."""


class PromptConfig(Section):
    """What SAM is asked."""

    low: float = Field(default=0.25, ge=0, le=1)
    """CAM value up to which a pixel is background: the paper's L."""
    high: float = Field(default=0.7, gt=0, le=1)
    """CAM value from which a pixel is foreground: the paper's H."""
    _ordered = field_validator("high")(_above_low)
    pieces: int = Field(default=16, ge=1, le=64)
    """Most pieces a class and image, largest first; the rest is counted in `dropped`."""
    positives: int = Field(default=3, ge=1, le=8)
    """Points on a piece, in each view: what the embedded SAM is measured with."""
    negatives: int = Field(default=1, ge=0, le=7)
    """Points beside a piece, in each view; with the positives 8 at most."""
    min_area: float = Field(default=2e-4, ge=0, le=1)
    """Share of the image below which a CAM piece is not asked about, unless it is the largest: 8 pixels of
    200², less than a blowhole covers."""
    seed: int = Field(default=0, ge=0)
    """Of the draw of points, together with the image's content and the class."""


class MaskConfig(Section):
    """SAM's decoder and the choice among its masks."""

    boxes: bool = False
    """Whether SAM is given the box of a CAM piece: a CAM's border is rough, and SAM obeys a box."""
    dense: bool = False
    """Whether SAM is given the CAM as a soft mask: it then repeats the CAM rather than look."""
    multimask: bool = True
    """Three masks to choose from with the CAM's help; false takes SAM's single mask."""
    low: float = Field(default=0.25, ge=0, le=1)
    """Share of the CAM's maximum from which a pixel of a piece's box counts as the piece."""
    margin: float = Field(default=0.5, ge=0)
    """Neighbourhood in which masks are compared with the CAM, in lengths of the piece's box on each side."""
    growth: float = Field(default=4.0, gt=0)
    """A mask of more than that many times the dilated piece is rejected: the background of a small defect."""
    batch: int = Field(default=32, ge=1)
    """Most prompts a call of the decoder; lower it where memory is short."""


class EnsembleConfig(Section):
    """From the views' masks to P2."""

    low: float = Field(default=0.25, ge=0, le=1)
    """Mean CAM below which a piece of SAM's is not believed: the paper's L."""
    high: float = Field(default=0.7, gt=0, le=1)
    """CAM value from which a component must be found by SAM: the paper's H."""
    _ordered = field_validator("high")(_above_low)
    limit: float = Field(default=0.9, ge=0, le=1)
    """Entropy in bits above which a pixel is uncertain: between a third and two thirds of the votes."""
    votes: int = Field(default=3, ge=1)
    """Fewest votes that make an entropy; below, it is 1 bit."""
    missed: float = Field(default=0.1, ge=0, le=1)
    """Share of a CAM component below which SAM is said to have missed it."""


class CamConfig(Section):
    """The class activation maps, and the label map P1 that they make."""

    scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Scales of the network's own side at which an image is seen, their patch logits averaged; `score` is that of the one
    nearest to 1, at which the network has learned."""
    flip: bool = True
    """Whether the mirrored image is seen too."""
    low: float = Field(default=0.25, ge=0, le=1)
    """CAM value up to which a pixel is background: the paper's L. Used by P1 and by CTC's regions."""
    high: float = Field(default=0.7, gt=0, le=1)
    """CAM value from which a pixel is foreground: the paper's H. Used by P1 and by CTC's regions."""
    _ordered = field_validator("high")(_above_low)
    attention: bool = False
    """Multiply the CAM by what the class token attends to (`bench.quality` measures what it gives)."""
    affinity: bool = False
    """Let patches that attend to each other agree on their class."""
    adaptive: bool = False
    """Refine the CAM by the pixels' own colours: like ones come to like values."""

    @field_validator("scales")
    @classmethod
    def _scales_above_zero(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < scale < math.inf for scale in value):
            raise ValueError("must hold at least one number above 0")
        return value


class TrainVitConfig(Section):
    """The CAM branch's network and its training; with the section `cam` it makes a `Recipe`."""

    checkpoint: Path | None = None
    """A trained network to use instead of training one."""
    backbone: str = "tiny"
    """`tiny`, which begins from the embedded start, or a timm model name such as `vit_base_patch16_224`."""
    pretrained: str | None = None
    """For timm's backbones: `timm` (fetched by timm), the path of a weights file (.safetensors, .pth), or none
    (random, which learns little from a few hundred images)."""
    side: int = Field(default=160, ge=32, le=1024)
    """Longer side in pixels of an image at scale 1; a multiple of the patch (8 for `tiny`, 16 for ViT-B/16).
    160 keeps 900 images within minutes on two cores."""
    objectness: bool = True
    """Whether the embedded start, frozen, says where evidence for a class may lie. Without it, a class that
    always comes with one background is recognised by that background."""
    seed: int = Field(default=0, ge=0)
    """Of weights, order, augmentation and crops."""
    epochs: int = Field(default=6, ge=1)
    """How often each image is seen: enough for `tiny`, which begins from features that know defects."""
    min_steps: int = Field(default=300, ge=1)
    """Fewest steps: of a small set, each image is seen more often. Where 63 magnetic tiles were to tell the classes of the
    other 64, 141 steps instead of 47 raised the AUROC of `score` from 70 to 77."""
    step_images: int = Field(default=8, ge=1)
    """Images a step: the paper's 8."""
    rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate of AdamW. The paper's 6e-5 suits a large pretrained ViT; `tiny` bears more."""
    head_factor: float = Field(default=10, gt=0)
    """By how much faster heads and class tokens learn: they begin from nothing."""
    weight_decay: float = Field(default=0.001, ge=0)
    """Of AdamW: the paper's."""
    warm_up: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    power: float = Field(default=0.9, ge=0)
    """Of the polynomial decay of the learning rate, to 0 at the end."""
    average: float = Field(default=0.99, ge=0, lt=1)
    """Of the moving average of the weights, which is what is kept."""
    patience: float = Field(default=0.4, ge=0, le=1)
    """Share of all steps within which the smoothed training loss must reach a new minimum, by 0.1 %, else the training
    ends; 0 never ends early. What counts begins once CTC has come in. Of 3200 simulated losses with a fall and noise as
    on procedural sets, 0.4 ended three early."""
    crop: float = Field(default=0.8, gt=0, le=1)
    """Smallest share of an image's area in a training crop: smaller ones might lose the defect."""
    distil: float = Field(default=1.0, ge=0)
    """Weight of the loss by which the patch map learns, over the whole set, what objectness says of each image
    alone; 0 leaves it out. It mends images whose objectness took the bare surface for the defect."""
    contrast: float = Field(default=0.5, ge=0)
    """Weight of Class Token Contrast's loss; 0 leaves it out."""
    contrast_from: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps before CTC begins: it needs an auxiliary CAM that points somewhere."""
    local_share: float = Field(default=0.2, gt=0, le=1)
    """Side of a local crop as a share of `side`."""
    local_side: int = Field(default=32, ge=16)
    """Pixels to which a local crop is resized; a multiple of the patch."""
    local_crops: int = Field(default=8, ge=1)
    """Local crops an image."""
    width: int = Field(default=128, ge=8)
    """Of the projections G and F."""
    temperature: float = Field(default=0.5, gt=0)
    """τ of eq. 2."""
    momentum: float = Field(default=0.9, ge=0, le=1)
    """ρ: G ← ρ·G + (1 − ρ)·F; the paper's."""
    calibration: int = Field(default=16, ge=1)
    """Images a class on which τ_c, the usual maximum of a class's CAM, is measured after training."""


class TrainFusionConfig(Section):
    """The fusion network's training, by the agreement of P1 and P2."""

    checkpoint: Path | None = None
    """A trained fusion network to use instead of training one."""
    epochs: float = Field(default=6, gt=0)
    """Passes over the patches, within the bounds of steps below."""
    min_steps: int = Field(default=60, ge=1)
    """Fewest steps of each fold's network."""
    max_steps: int = Field(default=200, ge=1)
    """Most steps of each fold's network, also where min_steps is more: some two minutes of two cores for both. The look's may
    take three times as many."""
    batch: int = Field(default=8, ge=2)
    """Views a step, two of each patch; even. It changes what is learned."""
    crop: int = Field(default=128, ge=16)
    """Side of a patch in pixels, a multiple of 8: a little more than the network sees."""
    crops: int = Field(default=4, ge=1)
    """Patches an image, every other one placed on something: what covers a 200² image once or twice."""
    patches_mb: int = Field(default=1000, ge=10)
    """Most disk that patches, and what the look is learned from, may each take while it trains, in MB; of larger sets, fewer
    patches an image, then every n-th image."""
    lr: float = Field(default=2e-3, gt=0)
    """AdamW's learning rate at its height, after a warm-up; cosine decay."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    ema: float = Field(default=0.98, ge=0, lt=1)
    """Share of the averaged weights that a step keeps; the average is what is used."""
    drop_cam: float = Field(default=0.35, ge=0, le=1)
    """Share of samples that lose their CAM, so that SAM and the image must do."""
    drop_sam: float = Field(default=0.35, ge=0, le=1)
    """Share of samples that lose SAM's mean and entropy: what a piece looks like that SAM missed."""
    drop_all: float = Field(default=0.15, ge=0, le=1)
    """Share of samples that keep the image alone; without it the network never looks there."""
    balance: float = Field(default=0.5, ge=0, le=1)
    """How far foreground's share of the loss is evened out: 0 as it is, 1 a half."""
    consistency: float = Field(default=1.0, ge=0)
    """Weight of the term by which two views of a patch must agree where P1 and P2 do not."""
    abstain: float = Field(default=0.3, ge=0, le=1)
    """How much one label map's word counts where the other abstains (255): that is where borders lie."""
    top: float = Field(default=0.01, gt=0, le=1)
    """Share of an image's pixels that is positive where a class of its label has no agreed pixel."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """Least weight of an image, however unreliable its masks."""
    patience: float = Field(default=0.4, ge=0, le=1)
    """Share of all steps within which the smoothed training loss must reach a new minimum, by 0.1 %, else a fold's
    training ends; 0 never ends early. What counts begins after a third, when the term of consistency is all in."""
    seed: int = Field(default=0, ge=0)
    """Of weights, patches, turns and drops."""


class FuseConfig(Section):
    """P and its confidence."""

    views: int = Field(default=4, ge=1, le=8)
    """Flips and turns over which the network's logits are averaged; the first four keep the shape."""
    guide: bool = True
    """Let P's outlines follow the image's own edges within a pixel or two of SAM's masks (a guided filter)."""
    doubtful: float = Field(default=0.1, ge=0, le=1)
    """Score below which the classifier flatly denies a class that the label names: its defects are in doubt."""
    cap: float = Field(default=0.5, ge=0, le=1)
    """Highest confidence in doubt: no better than a coin."""
