"""From images in a store to what the fusion networks learn from, on a disk, within a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.appearance import Appearance, Lesson, lesson, look, steps_of, teach
from models.appearance_trust import confirmed_in, trust_in
from models.fusion import FOLDS, Fusion, fold_of, others_heard
from models.fusion_patches import Patch, Record, cut, target_of
from models.spool import Part, Spool


@dataclass(frozen=True)
class FusionRecipe:
    """All that decides what is learned; see TrainFusionConfig for units and reasons."""

    epochs: float = 6.0
    min_steps: int = 60
    max_steps: int = 200
    batch: int = 8
    crop: int = 128
    crops: int = 4
    patches_mb: int = 1000
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.98
    drop_cam: float = 0.35
    drop_sam: float = 0.35
    drop_all: float = 0.15
    balance: float = 0.5
    consistency: float = 1.0
    abstain: float = 0.3
    top: float = 0.01
    floor: float = 0.1
    patience: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError."""
        taken = self.drop_cam + self.drop_sam + self.drop_all
        if taken > 1:
            raise ValueError(
                f"drop_cam + drop_sam + drop_all = {taken:.2f}, expected at most 1: each sample has one fate"
            )
        if self.batch % 2 or self.crop % 8:
            raise ValueError(
                f"batch = {self.batch} and crop = {self.crop}: expected an even batch (two views a patch) "
                "and a crop that is a multiple of 8"
            )


def lessons_of(
    records: Sequence[Record], recipe: FusionRecipe, folder: Path | None = None
) -> tuple[Spool[Lesson], list[int]]:
    """What images teach of the look of defects, as many as `patches_mb` allows, evenly spread, and the fold of each.

    folder: see `Spool`. Raises ValueError where there is no image at all.
    """
    if not len(records):
        raise ValueError("the fusion network has no images to learn from; run the stages before it first")
    found = Spool(Lesson, folder)
    folds: list[int] = []
    stride = 1
    n = 0
    while n < len(records):
        record = records[n]
        target = target_of(record, **_rules(recipe))
        found.append(
            lesson(
                record["feature"],
                record["image"],
                target,
                record["slot_class"],
                record["annotation"],
                record["p2"],
            )
        )
        folds.append(fold_of(record["sha256"]))
        if n == 0:
            size = sum(part.nbytes for part in found[0])
            stride = max(1, math.ceil(len(records) * size / (recipe.patches_mb * 1e6)))
        n += stride
    return found, folds


def parted(
    lessons: Sequence[Lesson], folds: Sequence[int]
) -> list[tuple[Sequence[Lesson], Sequence[Lesson]]]:
    """For each fold, the lessons of all others and its own; none where a fold has no others.

    A network would judge the very images that taught it.
    """
    if len(set(folds)) < FOLDS:
        return []
    by_fold = [Part(lessons, [n for n, of in enumerate(folds) if of == fold]) for fold in range(FOLDS)]
    return [(by_fold[1 - fold], by_fold[fold]) for fold in range(FOLDS)]


def appearances(
    parts: Sequence[tuple[Sequence[Lesson], Sequence[Lesson]]],
    recipe: FusionRecipe,
    device: torch.device,
    report: Callable[[], None] | None = None,
) -> list[Appearance]:
    """One network a fold that judges the look of its images, taught by all others, and trusted as far as it is right.

    parts: as of `parted`; report: called after each step.
    """
    asked = [one.asked for part in parts for one in part[0]]
    classes = max((int(each.max()) + 1 for each in asked if len(each)), default=1)
    found = []
    for fold, (others, own) in enumerate(parts):
        seed = FOLDS * recipe.seed + fold
        steps = steps_of(len(others), recipe.max_steps)
        net = teach(others, classes, steps=steps, seed=seed, device=device, report=report)
        net.trust.copy_(torch.from_numpy(trust_in(net, others, own)))
        net.confirmed.copy_(torch.from_numpy(confirmed_in(net, own)))
        found.append(net)
    return found


def _rules(recipe: FusionRecipe) -> dict[str, float]:
    return {name: getattr(recipe, name) for name in ("abstain", "top", "floor")}


def collect(
    records: Sequence[Record],
    recipe: FusionRecipe,
    looking: Sequence[Appearance] = (),
    folder: Path | None = None,
) -> Spool[Patch]:
    """Read every image once, in order, and keep patches of it, as many as `patches_mb` allows.

    looking: a network a fold, for the look of its images; none: the look says nothing; folder: see `Spool`.
    Raises ValueError where there is no image at all, or where patches of all images would not fit.
    """
    if not len(records):
        raise ValueError("the fusion network has no images to learn from; run the stages before it first")
    each = recipe.crop**2 * 14  # bytes of a patch with two slots
    count = min(recipe.crops, int(recipe.patches_mb * 1e6 / each / len(records)))
    stride = max(1, math.ceil(len(records) * each / (recipe.patches_mb * 1e6)))
    patches = Spool(Patch, folder)
    for n in range(0, len(records), stride):
        record = records[n]
        seen = heard = None
        if looking:
            net, used = looking[fold_of(record["sha256"])], record["slot_class"] > 0
            seen = look(
                net, record["feature"], record["image"], record["slot_class"][used], record["mean"][used], record["weight"]
            )  # fmt: skip
            heard = others_heard(net, record["annotation"], record["slot_class"][used])
        patches.extend(cut(record, recipe.crop, max(1, count), recipe.seed, seen, heard, **_rules(recipe)))
    return patches


def with_looks(looking: Sequence[Appearance]) -> Fusion:
    """Untrained fusion networks beside trained ones of the look, one a fold, or none."""
    if not looking:
        return Fusion()
    model = Fusion(features=(looking[0].channels, looking[0].head.out_channels))
    for mine, trained in zip(model.appearances or (), looking, strict=True):
        mine.load_state_dict(trained.state_dict())
    return model
