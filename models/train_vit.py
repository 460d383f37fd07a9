"""Trains the CAM branch's network from image-level labels alone, on plain arrays."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.cams import activate, fitted, object_map, resized, smoothed_maximum
from models.checkpoints import Due
from models.ctc import TokenContrast, choose_crops, cut, regions
from models.patience import Patience
from models.spool import Spool
from models.telling import READ, STEPS, Report, Watched, counter
from models.vit import ClassTokenViT, Evidence, build_vit, distillation_loss, multi_label_loss, save_vit
from models.vit_batches import Batch, Example, draw

SAVE_EVERY = 50  # steps between states on disk


@dataclass(frozen=True)
class Recipe:
    """How to train: the network, its optimiser, and Class Token Contrast (algorithms of section 2.2).

    backbone, pretrained, side, objectness, seed: of `build_vit`. epochs, but at least min_steps; step_images: images a
    step. rate: of AdamW, times `head_factor` for heads and class tokens; weight_decay; warm_up: share of the steps; power: of the
    polynomial decay. average: of the moving average of the weights that is kept. patience: share of the steps
    within which the loss must fall, else the training ends, 0 never to end early. crop: smallest share of the
    image's area in a training crop, so that the label stays true. distil: weight of `distillation_loss`, by which
    the patch map learns from objectness; 0 to leave it out. contrast: weight of CTC's loss, 0 to leave
    it out; contrast_from: share of the steps before it begins; low, high: L and H; local_share: side of a
    local crop as a share of the image's; local_side: pixels it is resized to; local_crops: an image; width: of
    a projection; temperature: τ; momentum: ρ. scales, flip, attention, affinity, adaptive: of the CAM that τ_c is
    measured on; calibration: images a class for it.
    """

    backbone: str
    pretrained: str | None
    side: int
    objectness: bool
    seed: int
    epochs: int
    min_steps: int
    step_images: int
    rate: float
    head_factor: float
    weight_decay: float
    warm_up: float
    power: float
    average: float
    patience: float
    crop: float
    distil: float
    contrast: float
    contrast_from: float
    low: float
    high: float
    local_share: float
    local_side: int
    local_crops: int
    width: int
    temperature: float
    momentum: float
    scales: tuple[float, ...]
    flip: bool
    attention: bool
    affinity: bool
    adaptive: bool
    calibration: int

    def looking(self) -> dict[str, Any]:
        """How `activate` is to look at an image."""
        return {name: getattr(self, name) for name in ("scales", "flip", "attention", "affinity", "adaptive")}

    def digest(self) -> str:
        """Of all settings: 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def steps_of(images: int, recipe: Recipe) -> int:
    """Steps of a training on so many images, at least one: `epochs` over them, but no fewer than `min_steps`."""
    return max(recipe.min_steps, recipe.epochs * images // min(recipe.step_images, images))


class Training:
    """All that a training holds: network, its moving average, projections, optimiser, and the step to come."""

    def __init__(self, recipe: Recipe, classes: int, steps: int, device: str, precision: str) -> None:
        """A fresh training of `steps` steps."""
        self.recipe, self.steps, self.device, self.precision = recipe, steps, device, precision
        self.model = build_vit(
            recipe.backbone, classes, side=recipe.side, objectness=recipe.objectness,
            pretrained=recipe.pretrained, seed=recipe.seed, distilled=recipe.distil > 0,
        ).to(device)  # fmt: skip
        dim = self.model.backbone.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.contrast = TokenContrast(
                dim, classes, recipe.width, temperature=recipe.temperature, momentum=recipe.momentum
            ).to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = self._optimiser()
        # what CTC adds is not watched: it rises with every crop that is remembered; and its coming disturbs the rest
        begun = recipe.contrast_from if recipe.contrast else 0.0
        self.patience = Patience(steps, recipe.patience, since=max(begun, recipe.warm_up))
        self.step = 0
        self.rows: list[list[float]] = []

    def _optimiser(self) -> torch.optim.AdamW:
        trunk = [p for n, p in self.model.named_parameters() if p.requires_grad and n.startswith("backbone.")]
        heads = [
            p for n, p in self.model.named_parameters() if p.requires_grad and not n.startswith("backbone.")
        ]
        groups = [
            {"params": trunk, "factor": 1.0},
            {"params": [*heads, *self.contrast.local.parameters()], "factor": self.recipe.head_factor},
        ]
        return torch.optim.AdamW(
            groups, self.recipe.rate, betas=(0.9, 0.999), weight_decay=self.recipe.weight_decay
        )

    @property
    def over(self) -> bool:
        """Whether there is no step left, or none that promises anything."""
        return self.step >= self.steps or self.patience.over

    def draw(self, examples: Sequence[Example]) -> Batch:
        """The batch of the step to come."""
        recipe = self.recipe
        return draw(
            examples, self.step, seed=recipe.seed, batch=recipe.step_images, crop=recipe.crop, side=recipe.side,
            patch=self.model.patch_size, device=self.device,
        )  # fmt: skip

    def rate(self) -> float:
        """Learning rate of this step's trunk: linear warm-up, then polynomial decay to 0."""
        warm = max(1, round(self.recipe.warm_up * self.steps))
        rise = min(1.0, (self.step + 1) / warm)
        fall: float = (1 - max(0, self.step - warm) / max(1, self.steps - warm)) ** self.recipe.power
        return self.recipe.rate * rise * fall

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of the three heads and of distillation, and that of CTC."""
        evidence: Evidence = self.model(batch.image, batch.valid, batch.objects)
        classification = multi_label_loss(evidence, batch.label)
        if self.recipe.distil and batch.objects is not None:
            taught = distillation_loss(evidence, batch.label, self.recipe.low, self.recipe.high)
            classification = classification + self.recipe.distil * taught
        if not self.recipe.contrast or self.step < self.recipe.contrast_from * self.steps:
            return classification, classification.new_zeros(())
        return classification, self._contrast(batch, evidence)

    def _contrast(self, batch: Batch, evidence: Evidence) -> Tensor:
        recipe = self.recipe
        activation = torch.relu(evidence.auxiliary_map.detach()) * evidence.weight[:, None]
        found = regions(activation, batch.label, evidence.valid, recipe.low, recipe.high)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        side = max(1, round(recipe.local_share * recipe.side))
        crops = choose_crops(found, self.model.patch_size, side, recipe.local_crops, generator)
        if len(crops.image) == 0:
            return evidence.token.new_zeros(())
        objects = (
            None if batch.objects is None else cut(batch.objects[:, None], crops, recipe.local_side)[:, 0]
        )
        local: Evidence = self.model(cut(batch.image, crops, recipe.local_side), None, objects)
        loss = self.contrast.loss(evidence.class_token, batch.label, local.class_token, crops)
        good = batch.label.sum(1).cpu()[crops.image] == 0
        self.contrast.remember(local.class_token.detach()[good])
        return loss

    def advance(self, batch: Batch) -> float:
        """One step on one batch; returns the loss."""
        self.model.train()
        rate = self.rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        with torch.autocast(
            torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bfloat16"
        ):
            classification, contrast = self.losses(batch)
        loss = classification + self.recipe.contrast * contrast
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.contrast.follow()
        self.rows.append([self.step, rate, float(classification.detach()), float(contrast.detach())])
        self.step += 1
        self.patience.see(self.rows[-1][2])
        self._follow()
        return self.rows[-1][2]

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.recipe.average, self.step / (self.step + 10))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def save(self, folder: Path) -> None:
        """Writes the state by rename, so that a kill leaves the last whole one; and losses.csv beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "contrast": self.contrast.state_dict(), "optimiser": self.optimiser.state_dict(),
            "step": self.step, "rows": self.rows, "patience": self.patience.state(),
        }  # fmt: skip
        torch.save(state, folder / "state.partial")
        (folder / "state.partial").replace(folder / "state.pt")
        with (folder / "losses.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["step", "rate", "classification", "contrast"], *self.rows])

    def resume(self, folder: Path) -> None:
        """Takes up the state in `folder` where there is one."""
        if (folder / "state.pt").is_file():
            state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.contrast.load_state_dict(state["contrast"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.rows = int(state["step"]), state["rows"]
            self.patience.restore(state["patience"])


def calibrate(
    model: ClassTokenViT,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    recipe: Recipe,
    precision: str,
    report: Report | None = None,
    known: Sequence[np.ndarray] | None = None,
) -> Tensor:
    """τ_c: per class, the median over its training images of the CAM's 3×3-smoothed maximum; (class,) float32.

    At most `recipe.calibration` images a class are looked at, drawn by the seed; 0 for a class without images.
    report: called after each of them. known: as of `train_vit`.
    """
    chosen = []
    for which in range(labels.shape[1]):
        members = np.flatnonzero(labels[:, which])
        rng = np.random.default_rng([recipe.seed, 2, which])
        chosen.append(np.sort(rng.permutation(members)[: recipe.calibration]))
    tau, one_more = torch.zeros(len(chosen)), counter(report, sum(map(len, chosen)), "images calibrated")
    for which, some in enumerate(chosen):
        maxima = []
        for i in some:
            how = recipe.looking() | {"precision": precision, "known": None if known is None else known[i]}
            seen = activate(model, images[i], labels[i].astype(bool), **how)
            maxima.append(smoothed_maximum(seen.cam[which]))
            if one_more is not None:
                one_more()
        tau[which] = float(np.median(maxima)) if maxima else 0.0
    return tau


def _examples(
    model: ClassTokenViT,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    precision: str,
    folder: Path,
    known: Sequence[np.ndarray] | None = None,
) -> Spool[Example]:
    """Objectness is frozen, so it is had once, and kept at the size that training sees. folder: see `Spool`."""
    examples = Spool(Example, folder)
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
        objects = object_map(model, image, precision, None if known is None else known[n])
        small = fitted((image.shape[0], image.shape[1]), model.side)
        if small[0] < image.shape[0]:
            image = resized(image, small)
        if objects is not None:
            objects = resized(objects, (image.shape[0], image.shape[1]))
        examples.append(Example(image, objects, label))
    return examples


def data_digest(images: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """Sha256 over all pixels, shapes and labels. Raises ValueError for images or labels of a wrong shape."""
    if len(images) == 0 or labels.ndim != 2 or len(labels) != len(images):
        raise ValueError(
            f"train_vit: {len(images)} images and labels of shape {labels.shape}; "
            "expected at least one image, and labels of shape (image, class)"
        )
    digest = hashlib.sha256(labels.astype(np.uint8).tobytes())
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"train_vit: image {index} is {image.dtype} of shape {image.shape}; expected uint8 (y, x, 3)"
            )
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def train_vit(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    recipe: Recipe,
    *,
    out: Path,
    state: Path,
    known: Sequence[np.ndarray] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
    report: Report | None = None,
) -> str:
    """Trains a network and writes it.

    images: each (y, x, 3) uint8, any size; read twice and in order, some once more, so that they may come from disk;
    labels: (image, class) bool, all False for a good surface. known: of each image, as of `models.cams.object_map`.
    out: the safetensors file to write; state: a folder that holds the state of trainings under way, one a
    recipe and data: a training that was killed goes on from there and ends with the same bits (same device,
    threads and precision). precision: float32 or bfloat16 (autocast). threads: of torch; None: as they are.
    report: called after each image that is read for training, each step, and each image of the calibration; a training
    that ends early (see `models.patience`) has done all of its steps.
    Returns the digest of `out`. Raises ValueError for images or labels of a wrong shape.
    """
    data = data_digest(images, labels)
    if threads is not None:
        torch.set_num_threads(threads)
    steps = steps_of(len(images), recipe)
    training = Training(recipe, labels.shape[1], steps, device, precision)
    folder = state / hashlib.sha256(f"{recipe.digest()}{data}{precision}".encode()).hexdigest()[:16]
    training.resume(folder)
    state.mkdir(parents=True, exist_ok=True)
    examples: Sequence[Example] = (
        []
        if training.over
        else _examples(training.model, Watched(images, report, READ), labels, precision, state, known)
    )
    due = Due(SAVE_EVERY)
    while not training.over:
        batch = training.draw(examples)
        loss = training.advance(batch)
        if due(training.step) or training.over:
            training.save(folder)
        if report is not None:
            report(steps if training.over else training.step, steps, loss, STEPS)
    training.average.tau.copy_(calibrate(training.average, images, labels, recipe, precision, report, known))
    about = {"recipe": recipe.digest(), "data": data, "steps": training.patience.told()}
    return save_vit(out, training.average, about)
