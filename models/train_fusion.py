"""Training of the fusion networks without ground truth: agreement of P1 and P2, two-fold cross-fitting."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.appearance import Appearance
from models.appearance import steps_of as look_steps
from models.checkpoints import Due, save_checkpoint
from models.fusion import FOLDS, FusionNet, Precision, autocast, metadata_of
from models.fusion_losses import agreement_loss, class_probabilities, consistency_loss, foreground_share
from models.fusion_patches import Batch, Patch, Record, batch, digest_of_patches
from models.fusion_records import FusionRecipe, appearances, collect, lessons_of, parted, with_looks
from models.fusion_trust import warranted
from models.patience import Patience
from models.spool import Part
from models.telling import LOOK_STEPS, READ, READ_AGAIN, STEPS, Report, Watched, counter

LOOSE = 12.0
"""Logits that image and surroundings may add while a network learns. Under a bound of 3 the first steps, which push
everything towards the commoner ground, drove the network of a small test into the flat end of the tanh, where nothing is
learned."""


@dataclass(frozen=True)
class Losses:
    """One step's figures."""

    loss: float
    agreement: float
    consistency: float


class Fold:
    """Training of one fold's network, one step at a time; its state can be kept and taken up again."""

    def __init__(
        self, patches: Sequence[Patch], recipe: FusionRecipe, fold: int, device: torch.device
    ) -> None:
        """patches: those that this network may learn from; fold: the one whose images it will fuse."""
        self.patches, self.recipe, self.fold, self.device = patches, recipe, fold, device
        self.step = 0
        self.steps = steps_of(len(patches), recipe)
        # the weight of consistency rises over the first third (see `advance`), and the loss with it
        self.patience = Patience(self.steps, recipe.patience, since=1 / 3)
        self.foreground = foreground_share(patches, recipe.balance)
        torch.manual_seed(recipe.seed + fold)
        self.net = FusionNet().to(memory_format=torch.channels_last).to(device)
        self.net.bound.fill_(LOOSE)
        self.ema = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )

    @property
    def over(self) -> bool:
        """Whether there is no step left, or none that promises anything."""
        return self.step >= self.steps or self.patience.over

    @property
    def done(self) -> int:
        """Steps that need not be taken any more: all of them where it is over."""
        return self.steps if self.over else self.step

    def advance(self, precision: Precision) -> Losses:
        """One step of AdamW on patches that the seed, fold and step decide."""
        drawn = self._draw()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr * schedule(self.step, self.steps)
        x = torch.from_numpy(drawn.x).to(self.device).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, precision):
            logits = self.net(x)
        log_p = class_probabilities(logits, drawn)
        slot, weight, free = (torch.from_numpy(v).to(self.device) for v in drawn[3:6])
        agreed = agreement_loss(log_p, slot, weight, self.foreground)
        apart = consistency_loss(log_p, free, drawn.turn)
        loss = agreed + self.recipe.consistency * min(1.0, 3 * self.step / self.steps) * apart
        self._descend(loss)
        self.patience.see(loss.item())
        return Losses(loss.item(), agreed.item(), apart.item())

    def _draw(self) -> Batch:
        rng = np.random.default_rng([self.recipe.seed, self.fold, self.step])
        chosen = rng.integers(len(self.patches), size=self.recipe.batch // 2)
        drops = {name: getattr(self.recipe, name) for name in ("drop_cam", "drop_sam", "drop_all")}
        return batch([self.patches[n] for n in chosen], rng, **drops)

    def _descend(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # the average starts short, or it would remember the random start
        keep = min(self.recipe.ema, self.step / (self.step + 10))
        for name, value in self.net.state_dict().items():
            self.ema[name].lerp_(value, 1 - keep)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on as if it had not been interrupted."""
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "ema": self.ema,
            "optimiser": self.optimiser.state_dict(),
            "patience": self.patience.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state made by `state`."""
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.patience.restore(state["patience"])


def steps_of(patches: int, recipe: FusionRecipe) -> int:
    """Steps for one fold: `epochs` over its patches, within bounds."""
    wanted = math.ceil(recipe.epochs * patches * 2 / recipe.batch)
    return min(recipe.max_steps, max(recipe.min_steps, wanted))


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: a short linear warm-up, then half a cosine down to 0."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Keeper:
    """Keeps the state of a training in a folder, atomically, and its log of losses beside it."""

    def __init__(self, folder: Path, recipe: str) -> None:
        """recipe: digest of config and data; another one's state is left alone."""
        self.path, self.log, self.recipe = folder / "fusion.pt", folder / "fusion.jsonl", recipe

    def load(self) -> dict[int, dict[str, Any]]:
        """States of the folds so far; none where nothing, or something else, was being trained."""
        if not self.path.is_file():
            self.log.unlink(missing_ok=True)
            return {}
        kept: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        if kept["recipe"] != self.recipe:
            self.log.unlink(missing_ok=True)
            return {}
        folds: dict[int, dict[str, Any]] = kept["folds"]
        self._trim({fold: state["step"] for fold, state in folds.items()})
        return folds

    def save(self, folds: Sequence[Fold]) -> None:
        """Replace the kept state in one rename; a crash leaves the old one or the new one."""
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save({"recipe": self.recipe, "folds": {f.fold: f.state() for f in folds}}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def note(self, fold: int, step: int, losses: Losses) -> None:
        """Append a line to the log."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fold": fold, "step": step, **asdict(losses)}) + "\n")

    def _trim(self, steps: dict[int, int]) -> None:
        """Forget what was noted after the state was kept: it is about to be done again."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        done = [line for line in lines if _is_done(line, steps)]
        self.log.write_text("".join(line + "\n" for line in done), encoding="utf-8")


def _is_done(line: str, steps: dict[int, int]) -> bool:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:  # the last line of a killed process may be torn
        return False
    return bool(entry["step"] <= steps.get(entry["fold"], -1))


def others(patches: Sequence[Patch], fold: int) -> Sequence[Patch]:
    """Patches that the network of a fold may learn from: all but that fold's own images.

    Where the other folds hold no image (a set of one, or an unlucky few) it learns from all there are;
    there is nothing to cross-fit, and the checkpoint's `cross_fitted` says so.
    """
    return Part.where(patches, lambda patch: patch.fold != fold) or patches


def train_fusion(
    records: Sequence[Record],
    recipe: FusionRecipe,
    *,
    out: Path,
    state: Path,
    device: str = "cpu",
    precision: Precision = "float32",
    threads: int | None = None,
    report: Report | None = None,
    save_every: int = 100,
) -> str:
    """Train the networks of both folds and write them as one checkpoint: first those of the look, then the fusion's.

    records: one mapping an image (see `cut`), with `feature`; read twice and in order, so it may read from disk.
    out: the safetensors file; state: folder for what a killed training resumes from (every `save_every`
    steps of the fusion's networks, or every minute) and the log `fusion.jsonl`; threads: of one network on the CPU, None leaves them
    as they are; report: called after each image read and each step, of the look's networks and of the fusion's.
    The same records, recipe, device and threads give the same bytes, interrupted or not, on a CPU.
    Returns the checkpoint's sha256. Raises ValueError where there is nothing to learn from.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    where = torch.device(device)
    state.mkdir(parents=True, exist_ok=True)
    lessons, folds_of = lessons_of(Watched(records, report, READ), recipe, state)
    parts = parted(lessons, folds_of)  # none where there is nothing to cross-fit
    steps = sum(look_steps(len(others), recipe.max_steps) for others, _ in parts)
    looking = appearances(parts, recipe, where, counter(report, steps, LOOK_STEPS))
    patches = collect(Watched(records, report, READ_AGAIN), recipe, looking, state)
    basis = json.dumps([asdict(recipe), precision, digest_of_patches(patches)])
    keeper = Keeper(state, hashlib.sha256(basis.encode()).hexdigest())
    folds = [Fold(others(patches, fold), recipe, fold, where) for fold in range(FOLDS)]
    for number, kept in keeper.load().items():
        folds[number].restore(kept)
    total, due = sum(fold.steps for fold in folds), Due(save_every)
    for fold in folds:
        while not fold.over:
            losses = fold.advance(precision)
            if report is not None:
                report(sum(f.done for f in folds), total, losses.loss, STEPS)
            if fold.step % 10 == 0 or fold.over:
                keeper.note(fold.fold, fold.step, losses)
            if due(fold.step) or fold.over:
                keeper.save(folds)
    return _write(out, folds, looking, patches, recipe, precision)


def _write(
    out: Path,
    folds: Sequence[Fold],
    looking: Sequence[Appearance],
    patches: Sequence[Patch],
    recipe: FusionRecipe,
    precision: Precision,
) -> str:
    model, crossed = with_looks(looking), len({patch.fold for patch in patches}) == FOLDS
    for fold in folds:
        net = fold.net.eval()
        net.load_state_dict(fold.ema)
        # what cannot be measured on other images is not to be relied on
        own = fold.fold
        unseen = Part.where(patches, lambda patch: patch.fold == own) if crossed else []  # noqa: B023 (used at once)
        net.bound.fill_(warranted(net, unseen, precision))
        model.nets[fold.fold].load_state_dict(net.state_dict())
    steps = [fold.patience.told() for fold in folds]
    about = metadata_of(model, cross_fitted=crossed, look=bool(looking), recipe=asdict(recipe), steps=steps)
    return save_checkpoint(out, model.state_dict(), about)
