"""SAM as the official predictor runs it, in a plain loop, and as bluemask does: same weights, images and prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from torch.utils.flop_counter import FlopCounterMode

from models.checkpoints import save_checkpoint
from models.sam import build_sam, encode_each
from models.sam_shapes import TINY_WEIGHTS, input_side
from models.surfaces import generate
from models.tiny_sam import tiny_sam
from tasks.augment import draw_views, image_rng, sam_input
from tasks.decode import Prompt, decode, view_masks
from tasks.views import View

PIECES = 2
"""Prompts a view, of four points each: about what a defect image asks for."""


@dataclass
class Sides:
    """Seconds and results of both sides."""

    seconds: dict[str, float] = field(default_factory=dict)
    different: float = 0.0
    iou: float = 1.0


def make_sams(name: str, checkpoint: Path | None, folder: Path, device: str) -> tuple[Sam, Sam]:
    """The official Sam and ours, of the same weights; random ones, from a file, where no checkpoint is given."""
    if name == "tiny":
        official = tiny_sam()
        path = checkpoint or TINY_WEIGHTS
    else:
        official = sam_model_registry[name]()
        path = checkpoint or random_weights(name, folder)
    ours = build_sam(name, path, device)
    official.load_state_dict({key: value.cpu() for key, value in ours.state_dict().items()}, strict=False)
    return official.to(device).eval(), ours


def random_weights(name: str, folder: Path) -> Path:
    """A file of weights of no use but of the official size; relative positions, which are born 0, get values."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        sam = sam_model_registry[name]()
        for key, weight in sam.named_parameters():
            if "rel_pos" in key or "pos_embed" in key:
                torch.nn.init.normal_(weight, std=0.02)
        save_checkpoint(path, sam.state_dict(), {})
    return path


def views_of(images: int, side: int, views: int) -> list[list[np.ndarray]]:
    """Procedural surfaces and their views, as the predictor is given them: (y, x, 3) uint8 each."""
    found = []
    for n in range(images):
        surface = generate(700_000_000 + n, size=(side, side), defects=PIECES)
        rng = image_rng(0, np.full(32, n, np.uint8))
        drawn = draw_views(rng, views, flips=True, turns=True, scales=(1, 2), scale_mode="canvas")
        found.append([np.ascontiguousarray(view.apply_image(surface.image)) for view in drawn])
    return found


def prompts_of(view: np.ndarray, seed: int) -> list[np.ndarray]:
    """Points of every piece: (point=4, 3) x, y, label."""
    rng, (height, width) = np.random.default_rng(seed), view.shape[:2]
    at = rng.uniform(0, 1, (PIECES, 4, 2)) * [width - 1, height - 1]
    return [np.concatenate([piece, np.array([[1], [1], [1], [0]])], 1) for piece in at]


def official_loop(sam: Sam, images: list[list[np.ndarray]], *, masks: bool) -> tuple[float, list[np.ndarray]]:
    """One `set_image` a view, one `predict` a prompt. Returns seconds and the masks, (3, y, x) bool each."""
    predictor, out, started = SamPredictor(sam), [], time.perf_counter()
    for image in images:
        for n, view in enumerate(image):
            predictor.set_image(view)
            for points in prompts_of(view, n) if masks else ():
                out.append(predictor.predict(points[:, :2], points[:, 2])[0])
    _wait(sam)
    return time.perf_counter() - started, out


def our_loop(
    sam: Sam, images: list[list[np.ndarray]], precision: str, *, masks: bool
) -> tuple[float, list[np.ndarray]]:
    """The stages' own calls, with embeddings through float16 as in the store. Returns as `official_loop`."""
    side, started = sam.image_encoder.img_size, time.perf_counter()
    out: list[np.ndarray] = []
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads, ThreadPoolExecutor(1) as ahead:
        # as in a run, the next image's views are made while SAM is at this one's
        coming = [ahead.submit(_frames, image, side, threads) for image in images]
        calls = (prepared.result() for prepared in coming)
        embeddings = encode_each(sam, calls, precision, half=True)
        for image, embedding in zip(images, embeddings, strict=True):
            if masks:
                out += _our_masks(sam, image, embedding)
    _wait(sam)
    return time.perf_counter() - started, out


def _frames(image: list[np.ndarray], side: int, threads: Executor) -> tuple[np.ndarray, np.ndarray]:
    """Views of an image as the stage `augment` makes them: (view, side, side, 3) uint8, and extents (view, 2)."""
    frames = np.zeros((len(image), side, side, 3), np.uint8)
    return frames, np.array(list(threads.map(sam_input, image, frames)))


def _our_masks(sam: Sam, image: list[np.ndarray], embedding: np.ndarray) -> list[np.ndarray]:
    prompts = [
        Prompt(0, piece, n, points)
        for n, view in enumerate(image)
        for piece, points in enumerate(prompts_of(view, n))
    ]
    extents = [(view.shape[0], view.shape[1]) for view in image]
    features = torch.from_numpy(embedding).to(sam.device).float()
    answers = decode(sam, features, prompts, extents)
    return [
        view_masks(sam, answer.logits, View(), extents[prompt.view])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _wait(sam: Sam) -> None:
    if sam.device.type == "cuda":
        torch.cuda.synchronize()


def compare(official: Sam, ours: Sam, images: list[list[np.ndarray]], precisions: tuple[str, ...]) -> Sides:
    """Both sides over the same images, after one view each that is not timed.

    On a GPU, which prepares itself for every new size of a batch, all views of the first image come before.
    """
    first = images[:1] if ours.device.type == "cuda" else [images[0][:1]]
    official_loop(official, first, masks=True)
    sides = Sides()
    sides.seconds["official, encoder"], _ = official_loop(official, images, masks=False)
    sides.seconds["official, encoder and decoder"], theirs = official_loop(official, images, masks=True)
    for precision in precisions:
        our_loop(ours, first, precision, masks=True)
        sides.seconds[f"bluemask {precision}, encoder"], _ = our_loop(ours, images, precision, masks=False)
        seconds, found = our_loop(ours, images, precision, masks=True)
        sides.seconds[f"bluemask {precision}, encoder and decoder"] = seconds
        if precision == "float32":
            sides.different = float(np.mean([(a != b).mean() for a, b in zip(theirs, found, strict=True)]))
        else:
            sides.iou = float(np.mean([_iou(a, b) for a, b in zip(theirs, found, strict=True)]))
    return sides


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 1.0


def encoder_flops(name: str) -> float:
    """Floating-point operations of the official encoder for one view, counted from its own products."""
    with torch.device("meta"):
        sam = tiny_sam() if name == "tiny" else sam_model_registry[name]()
        side = input_side(name)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            sam.image_encoder.eval()(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops())


def gemm_rate(dtype: torch.dtype, device: str, side: int = 2048) -> float:
    """The machine's own rate: operations a second of a square matrix product, the best of five."""
    side = side if device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(_timed(lambda: a @ b, device) for _ in range(5))


def _timed(action: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started
