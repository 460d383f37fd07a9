"""Trains the embedded start on procedural surfaces: `python -m models.train_start --out FILE`.

Every image is drawn for its step, from a seed that names the step, so that a run that was killed goes on from
its last state as if nothing had happened: on a CPU, the same threads, and where steps rather than minutes end it. Uses
no data but `models.surfaces`.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from models.checkpoints import load_checkpoint, save_checkpoint
from models.hardware import has_bfloat16_unit
from models.long_training import drawn_ahead, progress
from models.photometry import photometric
from models.start import KINDS, PATCH, SIDE, Start, load_start, standardise
from models.surfaces import Surface, generate

LOG_EVERY = 25
HELD_OUT = 1_000_000_000  # seeds from here on are for measuring alone
SIDES, SIDE_SHARES = (SIDE, 192, 256), (0.45, 0.35, 0.2)
"""Sides in pixels of the images of a step, and how often each is drawn: the CAM branch shows it images of any size."""


@dataclass(frozen=True)
class Batch:
    """Training images: image (n, y, x, 3) uint8; kind (n, y, x) uint8, 0 bare surface, k a kind of defect."""

    image: np.ndarray
    kind: np.ndarray


def _kind_map(surface: Surface) -> np.ndarray:
    """(y, x) uint8: 0 where there is no defect, else 1 + its index in KINDS."""
    kinds = np.zeros(surface.image.shape[:2], np.uint8)
    for mask, kind in zip(surface.instances, surface.kinds, strict=True):
        kinds[mask] = 1 + kind
    return kinds


def _example(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One image and its map of kinds: drawn as it is, cut from a larger one, or a larger one shrunk."""
    rng = np.random.default_rng([seed, 1])
    drawn = round(side * float(rng.choice([1.0, rng.uniform(1.0, 1.8)], p=[0.6, 0.4])))
    surface = generate(seed, drawn, defects=0 if rng.random() < 0.06 else None)
    image, kinds = surface.image, _kind_map(surface)
    if drawn > side and rng.random() < 0.5:
        image = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
        kinds = np.asarray(cv2.resize(kinds, (side, side), interpolation=cv2.INTER_NEAREST))
    top, left = (int(rng.integers(0, image.shape[0] - side + 1)) for _ in range(2))
    window = (slice(top, top + side), slice(left, left + side))
    return photometric(rng, image[window], invert=0.3), kinds[window]


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """The batches of a training by step, from 0; any process can draw any of them.

    first: steps of earlier trainings, whose images are not drawn again if their batches were as large; count: images a batch at the smallest of SIDES,
    at the others as many as have the same number of pixels.
    """

    first: int
    count: int

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        cv2.setNumThreads(1)  # the processes share the cores already
        side = int(np.random.default_rng([self.first + step, 2]).choice(SIDES, p=SIDE_SHARES))
        count = max(1, round(self.count * (SIDES[0] / side) ** 2))
        return draw_batch((self.first + step) * self.count, count, side)


def draw_batch(first_seed: int, count: int, side: int = SIDE) -> Batch:
    """The images of seeds first_seed, first_seed + 1, …; the same arguments give the same bytes."""
    examples = [_example(first_seed + i, side) for i in range(count)]
    return Batch(np.stack([image for image, _ in examples]), np.stack([kinds for _, kinds in examples]))


def start_loss(logits: Tensor, kind_logits: Tensor, kinds: Tensor) -> Tensor:
    """Cross-entropy and Dice of objectness at stride 2, and cross-entropy of the kind a patch.

    logits: (n, y/2, x/2); kind_logits: (n, y/8, x/8, 1 + KINDS); kinds: (n, y, x) int64. Returns a scalar.
    """
    share = functional.avg_pool2d((kinds > 0).float()[:, None], 2)[:, 0]  # (n, y/2, x/2) in [0, 1]
    entropy = functional.binary_cross_entropy_with_logits(logits, share)
    chance = torch.sigmoid(logits)
    both, either = (chance * share).sum((1, 2)), (chance + share).sum((1, 2))
    dice = 1 - (2 * both + 1) / (either + 1)
    one_hot = functional.one_hot(kinds, 1 + KINDS).permute(0, 3, 1, 2).float()
    patches = functional.avg_pool2d(one_hot, PATCH)  # (n, 1 + KINDS, y/8, x/8)
    # a patch counts as a defect from an eighth of its area on: scratches are thinner than a patch
    target = torch.where(patches[:, 0] > 0.875, 0, 1 + patches[:, 1:].argmax(1))
    kind = functional.cross_entropy(kind_logits.flatten(0, 2), target.flatten())
    return entropy + dice.mean() + 0.3 * kind


@dataclass
class Run:
    """All that a start's training holds: network, its moving average, optimiser and the step to come.

    first: steps that its first weights had been trained before; elapsed: seconds so far, those of a killed process too.
    """

    network: Start
    average: Start
    optimiser: torch.optim.Optimizer
    step: int = 0
    first: int = 0
    elapsed: float = 0.0

    def state(self) -> dict[str, object]:
        """What a later process needs to go on; all randomness derives from the step."""
        return {
            "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "step": self.step, "first": self.first, "elapsed": self.elapsed,
        }  # fmt: skip


def begin(rate: float, decay: float, weights: Path | None = None, device: str = "cpu") -> Run:
    """A fresh run, its weights drawn from seed 0, or those of an earlier run's export, after whose images it goes on."""
    torch.manual_seed(0)
    network = Start() if weights is None else load_start(weights).train().requires_grad_(True)
    network = network.to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), weight_decay=decay)
    first = 0 if weights is None else int(load_checkpoint(weights)[1]["steps"])
    return Run(network, copy.deepcopy(network).eval().requires_grad_(False), optimiser, first=first)


def resume(run: Run, path: Path) -> None:
    """Takes up the state at `path` where there is one. Raises ValueError where that run began with other weights."""
    if path.is_file():
        state = torch.load(path, weights_only=True, map_location=next(run.network.parameters()).device)
        if state.get("first", 0) != run.first:
            raise ValueError(
                f"{path} is the state of a run that began after {state.get('first', 0)} steps, not {run.first}; name "
                "another --state, or remove it"
            )
        run.network.load_state_dict(state["network"])
        run.average.load_state_dict(state["average"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.step, run.elapsed = int(state["step"]), float(state.get("elapsed", 0.0))


def _follow(average: Start, network: Start, keep: float) -> None:
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)


def train_step(run: Run, batch: Batch, rate: float) -> Tensor:
    """One step of AdamW on one batch, in bfloat16 where the device has a unit for it; returns the loss, left there."""
    device = next(run.network.parameters()).device
    image = torch.from_numpy(batch.image).to(device).permute(0, 3, 1, 2).float() / 255
    image = standardise(image).contiguous(memory_format=torch.channels_last)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16_unit(device.type)):
        logits, kinds = run.network(image)
    loss = start_loss(logits.float(), kinds.float(), torch.from_numpy(batch.kind).to(device).long())
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimiser.step()
    run.step += 1
    _follow(run.average, run.network, min(0.998, run.step / (run.step + 10)))
    return loss.detach()


@torch.no_grad()
def measure(start: Start, images: int = 200) -> float:
    """Mean IoU of objectness ≥ 0.5 over procedural images that training never draws, those with defects."""
    scores = []
    for first in range(HELD_OUT, HELD_OUT + images, 20):
        batch = draw_batch(first, 20)
        pixels = torch.from_numpy(batch.image).to(next(start.parameters()).device)
        logits = start(standardise(pixels.permute(0, 3, 1, 2).float() / 255))[0]
        found = functional.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear")[:, 0] > 0
        truth = torch.from_numpy(batch.kind).to(found.device) > 0
        both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
        scores += (both / either)[truth.any(2).any(1)].tolist()
    return float(np.mean(scores))


def export(run: Run, path: Path, iou: float) -> str:
    """Writes the moving average as float16 weights, with what it was measured at; returns its digest."""
    tensors = {
        n: (t.half() if t.is_floating_point() else t).cpu() for n, t in run.average.state_dict().items()
    }
    about = {"trained on": "procedural surfaces (models.surfaces)", "steps": str(run.first + run.step),
             "objectness IoU, held-out seeds": f"{iou:.4f}"}  # fmt: skip
    return save_checkpoint(path, tensors, about)


def _rate(done: float, peak: float) -> float:
    """Warm-up over the first 3 % of the run, then cosine to a hundredth of the peak; done in [0, 1]."""
    return peak * min(1.0, done / 0.03 + 0.01) * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))


def _save_state(run: Run, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(run.state(), partial)
    partial.replace(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--state", type=Path, required=True, help="a file to resume from, written as it goes")
    parser.add_argument("--weights", type=Path, help="an earlier run's export to begin with")
    parser.add_argument("--steps", type=int, default=2500, help="of this run")
    parser.add_argument(
        "--batch", type=int, default=16, help="images of 128 x 128 a step; of larger ones fewer"
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--decay", type=float, default=0.02, help="weight decay of AdamW")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--ahead", type=int, default=0,
        help="processes that draw batches beside the training, for a device that would wait for them",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="ends this run, and its rate, where steps are slow"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--every", type=int, default=100, help="steps between states and exports")
    return parser.parse_args()


def train(run: Run, options: argparse.Namespace) -> None:
    """Trains until the steps or the minutes are over; logs, saves and exports on the way."""
    batches = drawn_ahead(Steps(run.first, options.batch), run.step, options.steps, options.ahead)
    began, before, first, losses = time.monotonic(), run.elapsed, run.step, list[Tensor]()
    while (done := progress(run.step, options.steps, run.elapsed, options.minutes)) < 1:
        losses.append(train_step(run, next(batches), _rate(done, options.rate)))
        run.elapsed = before + time.monotonic() - began
        over = progress(run.step, options.steps, run.elapsed, options.minutes) >= 1
        if run.step % LOG_EVERY == 0:
            pace, left = (
                (run.elapsed - before) / (run.step - first),
                run.elapsed * (1 - done) / max(done, 1e-6),
            )
            loss = torch.stack(losses).mean()
            print(
                f"step {run.step}  loss {loss:.3f}  {pace:.2f} s/step  {left / 60:.0f} min left", flush=True
            )
            losses.clear()
        if run.step % options.every == 0 or over:
            _save_state(run, options.state)
            iou = measure(run.average)
            print(f"step {run.step}  held-out IoU {iou:.3f}  {export(run, options.out, iou)}", flush=True)


def main() -> None:
    """The command."""
    options = _options()
    torch.set_num_threads(options.threads)
    options.state.parent.mkdir(parents=True, exist_ok=True)
    run = begin(options.rate, options.decay, options.weights, options.device)
    resume(run, options.state)
    train(run, options)


if __name__ == "__main__":
    main()
