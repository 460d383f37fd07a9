"""Trains `tiny` SAM on procedural surfaces: python -m models.train_sam --out models/weights/tiny_sam.safetensors."""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoints import load_checkpoint, save_checkpoint
from models.hardware import has_bfloat16_unit
from models.long_training import drawn_ahead, progress
from models.measure_sam import HELD_OUT, piece_iou
from models.official import Sam
from models.sam import normalise
from models.sam_batches import Batch, Pool, Steps, draw_pool
from models.sam_losses import balanced_cross_entropy, dice_loss, prompt_loss
from models.sam_shapes import WIDTH
from models.tiny_sam import decode_groups, tiny_sam

LOG_EVERY = 50
POSITION = "image_encoder.position"


@dataclass
class Training:
    """All that a killed training needs to go on.

    average: the exponential moving average of `sam`, which is what is shipped; dense: head for the auxiliary map
    of all defects; elapsed: seconds spent so far in earlier and in this process; before: steps of the training whose
    weights it began with.
    """

    sam: Sam
    dense: nn.Sequential
    average: Sam
    optimiser: torch.optim.Optimizer
    step: int = 0
    elapsed: float = 0.0
    before: int = 0


def start(seed: int, weights: Path | None = None, device: str = "cpu") -> Training:
    """A training at step 0, its weights drawn from `seed`, or those of an earlier training's export."""
    torch.manual_seed(seed)
    sam, before = tiny_sam().train(), 0
    if weights is not None:
        known, about = load_checkpoint(weights)
        before = int(about.get("steps", 0))
        tensors = {name: tensor.float() for name, tensor in known.items()}
        if POSITION in tensors:
            tensors[POSITION] = spread(tensors[POSITION], len(sam.image_encoder.position[0]))
        missing = sam.load_state_dict(tensors, strict=False)
        if missing.unexpected_keys or any(
            not name.endswith("num_batches_tracked") for name in missing.missing_keys
        ):
            raise ValueError(f"{weights} does not hold the weights of `tiny`: {missing}")
    dense = nn.Sequential(nn.Conv2d(WIDTH, 16, 1), nn.PixelShuffle(4))
    sam.to(device)
    dense.to(device)
    sam.image_encoder.to(memory_format=torch.channels_last)
    parameters = [*sam.parameters(), *dense.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.02},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    return Training(sam, dense, copy.deepcopy(sam).eval(), optimiser, before=before)


def spread(position: Tensor, tokens: int) -> Tensor:
    """Positions of a square of tokens, interpolated to that of another input side; (1, token, d) to (1, tokens, d)."""
    old, new = math.isqrt(position.shape[1]), math.isqrt(tokens)
    if old == new:
        return position
    grid = position.view(1, old, old, -1).permute(0, 3, 1, 2)
    return functional.interpolate(grid, (new, new), mode="bicubic").flatten(2).transpose(1, 2)


def save_state(training: Training, path: Path) -> None:
    """Writes the whole training, atomically; batches are drawn from (seed, step), so that no RNG need be kept."""
    partial = path.with_suffix(".partial")
    state = {name: getattr(training, name).state_dict() for name in ("sam", "dense", "average", "optimiser")}
    counts = {name: getattr(training, name) for name in ("step", "elapsed", "before")}
    torch.save({**state, **counts}, partial)
    partial.replace(path)


def load_state(training: Training, path: Path) -> None:
    """Puts a saved training's state into one made by `start`."""
    state = torch.load(path, weights_only=True, map_location=training.sam.device)
    for name in ("sam", "dense", "average", "optimiser"):
        getattr(training, name).load_state_dict(state[name])
    training.step, training.elapsed = state["step"], state["elapsed"]
    training.before = state.get("before", training.before)


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Linear warm-up over 300 steps, then a cosine down to a hundredth at progress 1."""
    warm = min(1.0, (step + 1) / 300)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def step_loss(training: Training, batch: Batch, progress: float, refine: bool) -> Tensor:
    """The loss of one batch. progress: 0..1 of the training; refine: a second pass on the first one's masks."""
    sam, balance = training.sam, min(1.0, 1.15 - progress)  # find first, then draw sharply
    batch = batch.to(sam.device)
    frames = normalise(sam, batch.frames, batch.sizes).contiguous(memory_format=torch.channels_last)
    with _quick(sam):
        embedding = sam.image_encoder(frames)
        everything = training.dense(embedding)[:, 0]  # (n, y, x)
        prompts = (batch.points, batch.labels)
        logits, iou = decode_groups(sam, embedding, batch.owner, prompts, batch.boxes)
    logits, everything = logits.float(), everything.float()
    loss = prompt_loss(logits, iou.float(), batch.targets.float(), balance)
    anything = batch.anything.float()
    auxiliary = balanced_cross_entropy(everything, anything, balance) + dice_loss(everything, anything)
    loss = loss + (0.1 + 0.4 * (1 - progress)) * auxiliary.mean()
    if refine:
        loss = loss + 0.5 * _refined_loss(sam, embedding, batch, logits.detach(), iou.detach(), balance)
    return loss


def _quick(sam: Sam) -> torch.autocast:
    """bfloat16 where the device has a unit for it."""
    kind = sam.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=has_bfloat16_unit(kind))


def _refined_loss(
    sam: Sam, embedding: Tensor, batch: Batch, logits: Tensor, iou: Tensor, balance: float
) -> Tensor:
    """Half of the groups again, with the mask so far as a prompt and one click on what it got wrong."""
    half = torch.arange(0, len(batch.owner), 2, device=logits.device)
    best = logits[half, 1 + iou[half, 1:].argmax(1)]  # (g, y, x)
    targets = batch.targets[half].float()
    wrong = ((best > 0) != (targets > 0.5)).flatten(1).float() + 1e-6
    click = torch.multinomial(wrong, 1)  # (g, 1)
    xy = torch.stack([click % best.shape[-1], click // best.shape[-1]], 2).float()  # (g, 1, xy)
    labels = targets.flatten(1).gather(1, click)
    points = (torch.cat([batch.points[half], xy], 1), torch.cat([batch.labels[half], labels], 1))
    boxes = None if batch.boxes is None else batch.boxes[half]
    with _quick(sam):
        masks = best[:, None].clamp(-32, 32)
        again, iou = decode_groups(sam, embedding, batch.owner[half], points, boxes, masks)
    return prompt_loss(again.float(), iou.float(), targets, balance)


def update_average(training: Training) -> None:
    """Moves the average towards the weights: quickly at first, by 1 / 1000 a step later on."""
    decay = min(0.999, (1 + training.step) / (10 + training.step))
    with torch.no_grad():
        pairs = zip(training.average.state_dict().values(), training.sam.state_dict().values(), strict=True)
        for kept, new in pairs:
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1 - decay)


def export(training: Training, path: Path) -> str:
    """Writes the averaged weights as float16 (statistics of normalisation as float32); returns the digest."""
    weights = training.average.state_dict()
    small = {
        name: tensor.half() if tensor.dim() > 1 and tensor.dtype == torch.float32 else tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    return save_checkpoint(path, small, {"model": "tiny", "steps": str(training.before + training.step)})


def progress_of(training: Training, steps: int, minutes: float) -> float:
    """How much of the training is done, 0..1, by steps or by time, whichever runs out first."""
    return progress(training.step, steps, training.elapsed, minutes)


def train(training: Training, pool: Pool, args: argparse.Namespace) -> None:
    """Trains until the steps or the minutes are over; logs, saves and exports on the way."""
    began, before = time.monotonic(), training.elapsed
    losses: list[Tensor] = []
    saved = began
    steps = Steps(pool, args.seed, args.images, args.groups)
    batches = drawn_ahead(steps, training.step, args.steps, args.ahead)
    while (done := progress_of(training, args.steps, args.minutes)) < 1:
        losses.append(_one_step(training, next(batches), args, done))
        training.elapsed = before + time.monotonic() - began
        if training.step % LOG_EVERY == 0:
            print(_log_line(training, losses, done), flush=True)
            losses.clear()
        if time.monotonic() - saved > 60 * args.save_minutes:
            saved = time.monotonic()
            _keep(training, args)
    _keep(training, args)


def _one_step(training: Training, batch: Batch, args: argparse.Namespace, progress: float) -> Tensor:
    """One step; returns its loss, still on the device, which need not be waited for."""
    rng = np.random.default_rng((args.seed, training.step, 1))
    torch.manual_seed(int(rng.integers(2**31)))
    for group in training.optimiser.param_groups:
        group["lr"] = learning_rate(training.step, progress, args.rate)
    loss = step_loss(training, batch, progress, refine=bool(rng.random() < 0.25))
    training.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(training.sam.parameters(), 1.0)
    training.optimiser.step()
    training.step += 1
    update_average(training)
    return loss.detach()


def _log_line(training: Training, losses: list[Tensor], progress: float) -> str:
    left = training.elapsed / max(progress, 1e-6) * (1 - progress)
    return (
        f"step {training.step} loss {torch.stack(losses).mean():.4f} {training.elapsed / training.step:.3f} s a step, "
        f"{training.elapsed / 60:.1f} min gone, {left / 60:.1f} min left"
    )


def _keep(training: Training, args: argparse.Namespace) -> None:
    save_state(training, args.state)
    weights = export(training, args.out)
    measured = copy.deepcopy(training.average).cpu().eval()
    quality = np.mean([iou for _, iou, _ in piece_iou(measured, images=100, points=3)])
    print(f"step {training.step}: instance IoU {quality:.3f}; wrote {args.out} ({weights[:12]})", flush=True)


def _arguments() -> Iterator[tuple[str, type, object, str]]:
    yield "--steps", int, 8000, "steps of the whole training"
    yield (
        "--minutes",
        float,
        55.0,
        "time of the whole training; ends it, and its learning rate, where steps are slow",
    )
    yield "--images", int, 20, "images a step"
    yield "--groups", int, 2, "prompt groups an image"
    yield "--pool", int, 16000, "procedural frames to draw once and keep in memory (150 kB each)"
    yield "--workers", int, 2, "processes that draw the pool"
    yield (
        "--ahead",
        int,
        0,
        "processes that draw batches beside the training, for a device that would wait for them",
    )
    yield "--rate", float, 1e-3, "peak learning rate"
    yield "--seed", int, 0, "seed of weights and batches"
    yield "--first", int, 0, "seed of the pool's first frame"
    yield "--threads", int, 2, "threads of torch"
    yield "--device", str, "cpu", "cpu or cuda"
    yield "--save-minutes", float, 8.0, "minutes between exports"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--state", type=Path, required=True, help="file to resume from, and to save to")
    parser.add_argument("--weights", type=Path, help="an earlier training's export to begin with")
    for name, kind, default, meaning in _arguments():
        parser.add_argument(name, type=kind, default=default, help=f"{meaning} (default {default})")
    args = parser.parse_args()
    if args.first + args.pool > HELD_OUT:
        parser.error(
            f"--first {args.first} --pool {args.pool}: seeds from {HELD_OUT} on are for measuring alone"
        )
    torch.set_num_threads(args.threads)
    training = start(args.seed, args.weights, args.device)
    if args.state.exists():
        load_state(training, args.state)
        print(f"{args.state}: going on at step {training.step}", flush=True)
    print(f"drawing {args.pool} frames", flush=True)
    train(training, draw_pool(args.first, args.pool, args.workers), args)


if __name__ == "__main__":
    main()
