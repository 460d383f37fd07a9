"""Measures a SAM with clicks drawn from exact masks: python -m models.measure_sam --card models/weights/tiny_sam.md.

This is the one module of models/ that reads ground-truth masks, and nothing is trained by it. One choice was not blind to it: the side of `tiny`'s input.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamPredictor

from models.checkpoints import load_checkpoint, sam_checkpoint, sam_digest
from models.click_baselines import BASELINES
from models.clicks import random_points
from models.defects import Mask
from models.official import Sam
from models.sam import build_sam, encode
from models.sam_losses import mask_iou
from models.surfaces import KINDS, generate
from models.tiny_sam import decode_groups

HELD_OUT = 10_000_000  # seeds from here on are never trained on
CHOICES = ("chosen by the IoU head", "best of the three")
METHODS = (*CHOICES, *BASELINES)
"""Rows of a real set's table for each number of clicks; those of BASELINES are slow, and made on fewer images."""
LabelMap = NDArray[np.uint8]


def piece_iou(sam: Sam, images: int, points: int) -> Iterator[tuple[str, float, float]]:
    """Per piece of unseen procedural images: its kind, the IoU of the mask SAM would choose, that of its best.

    points: clicks a piece, drawn evenly over it. The chosen mask is the one of highest predicted IoU, the best
    the one that a person would choose of the three.
    """
    side = sam.image_encoder.img_size
    for seed in range(HELD_OUT, HELD_OUT + images):
        surface = generate(seed, side)
        if not len(surface.kinds):
            continue
        rng = np.random.default_rng(seed)
        clicks = torch.from_numpy(np.stack([random_points(rng, m, points) for m in surface.instances]))
        embedding = torch.from_numpy(encode(sam, surface.image[None], np.array([[side, side]]), "float32"))
        owner = torch.zeros(len(clicks), dtype=torch.int64)
        with torch.inference_mode():
            logits, guess = decode_groups(sam, embedding, owner, (clicks, torch.ones(clicks.shape[:2])))
        truth = torch.from_numpy(surface.instances)[:, None].expand(-1, 3, -1, -1).float()
        iou = mask_iou(logits[:, 1:], truth)  # (piece, 3)
        chosen = iou.gather(1, guess[:, 1:].argmax(1, keepdim=True))[:, 0]
        for kind, value, best in zip(surface.kinds, chosen.tolist(), iou.max(1).values.tolist(), strict=True):
            yield KINDS[kind], value, best


def pieces_of(truth: LabelMap) -> Iterator[tuple[int, Mask]]:
    """The connected parts (8 neighbours) of each class of a label map: class and (y, x) bool mask."""
    for k in np.setdiff1d(truth, [0, 255]):
        count, parts = cv2.connectedComponents((truth == k).astype(np.uint8), connectivity=8)
        for part in range(1, count):
            yield int(k), np.asarray(parts == part)


def click_labels(
    predictor: SamPredictor, image: NDArray[np.uint8], truth: LabelMap, points: int, rng: np.random.Generator
) -> tuple[LabelMap, LabelMap]:
    """Label maps of SAM, given clicks on every piece and its class.

    image: (y, x, 3) uint8 RGB; truth: (y, x) uint8 label map, from which the clicks are drawn evenly;
    points: clicks a piece. Returns two (y, x) uint8 label maps: of the masks of highest predicted IoU, and
    of those of the three that fit best.
    """
    chosen, best = np.zeros_like(truth), np.zeros_like(truth)
    pieces = list(pieces_of(truth))
    if not pieces:
        return chosen, best
    predictor.set_image(image)
    clicks = np.stack([random_points(rng, mask, points) for _, mask in pieces])  # (piece, point, xy)
    moved = torch.from_numpy(predictor.transform.apply_coords(clicks, image.shape[:2]))
    labels = torch.ones(moved.shape[:2])
    masks, guess, _ = predictor.predict_torch(moved.float(), labels)  # (piece, 3, y, x), (piece, 3)
    for (k, mask), three, quality in zip(pieces, masks, guess, strict=True):
        fit = mask_iou(three.float() - 0.5, torch.from_numpy(mask).float().expand_as(three))
        chosen[three[int(quality.argmax())].numpy()] = k
        best[three[int(fit.argmax())].numpy()] = k
    return chosen, best


def baseline_labels(
    name: str, image: NDArray[np.uint8], truth: LabelMap, points: int, rng: np.random.Generator
) -> LabelMap:
    """The label map of one of BASELINES for the very clicks of `click_labels`; arguments and result as there."""
    found = np.zeros_like(truth)
    pieces = list(pieces_of(truth))
    clicks = [random_points(rng, mask, points) for _, mask in pieces]
    for (k, _), given in zip(pieces, clicks, strict=True):
        found[BASELINES[name](image, given)] = k
    return found


def confusion(truth: LabelMap, guess: LabelMap, classes: int) -> NDArray[np.int64]:
    """Pixels by [truth, guess], (classes + 1, classes + 1) with background first; truth 255 is left out."""
    known = truth != 255
    size = classes + 1
    pairs = truth[known].astype(np.int64) * size + guess[known]
    return np.asarray(np.bincount(pairs, minlength=size * size).reshape(size, size), np.int64)


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU per class from one confusion matrix over the whole set (eq. 6), NaN where a class never occurs."""
    hit = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)


def measure_set(
    sam: Sam, folder: Path, points: int, seed: int, *, every: int = 1, methods: Sequence[str] = CHOICES
) -> tuple[list[str], list[list[float]]]:
    """Scores clicks on a set of images/<class>/<name>, masks/<class>/<name>.png and classes.txt.

    every: takes every n-th image in the order of names; methods: CHOICES, perhaps with BASELINES behind them.
    Returns the names of the classes, and a row of IoU, background first, for each method.
    """
    names = (folder / "classes.txt").read_text().split()
    predictor = SamPredictor(sam)
    total = np.zeros((len(methods), len(names) + 1, len(names) + 1), np.int64)
    for number, path in list(enumerate(sorted((folder / "masks").rglob("*.png"))))[::every]:
        truth = np.asarray(Image.open(path))
        image = _image_of(folder, path)
        guesses = [*click_labels(predictor, image, truth, points, np.random.default_rng((seed, number)))]
        for name in methods[len(CHOICES) :]:
            guesses.append(baseline_labels(name, image, truth, points, np.random.default_rng((seed, number))))
        for row, guess in enumerate(guesses):
            total[row] += confusion(truth, guess, len(names))
    return names, [class_iou(counts).tolist() for counts in total]


def _image_of(folder: Path, mask: Path) -> NDArray[np.uint8]:
    found = sorted((folder / "images" / mask.parent.name).glob(f"{mask.stem}.*"))
    if len(found) != 1:
        raise ValueError(
            f"{mask}: {len(found)} images of this name in images/{mask.parent.name}; there must be one"
        )
    return np.asarray(Image.open(found[0]).convert("RGB"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def procedural_table(sam: Sam, images: int, points: Sequence[int]) -> str:
    """Mean instance IoU per kind on unseen procedural images, as a Markdown table."""
    rows = []
    for count in points:
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for kind, chosen, best in piece_iou(sam, images, count):
            found[kind].append((chosen, best))
            found["all"].append((chosen, best))
        for column, what in enumerate(("chosen by the IoU head", "best of the three")):
            cells = [f"{np.mean([pair[column] for pair in found[k]]):.3f}" for k in ("all", *KINDS)]
            rows.append([str(count), what, *cells])
    pieces = len(found["all"])
    return f"{images} images, {pieces} pieces.\n\n" + _table(["clicks", "mask", "all", *KINDS], rows)


def set_table(
    sam: Sam,
    folder: Path,
    points: Sequence[int],
    seed: int,
    *,
    every: int = 1,
    methods: Sequence[str] = CHOICES,
) -> str:
    """IoU per class and their mean, in percent, on a real set, as a Markdown table; arguments as of `measure_set`."""
    rows: list[list[str]] = []
    names: list[str] = []
    for count in points:
        names, each = measure_set(sam, folder, count, seed, every=every, methods=methods)
        for what, iou in zip(methods, each, strict=True):
            rows.append([str(count), what, f"{100 * np.nanmean(iou):.1f}", *(f"{100 * v:.1f}" for v in iou)])
    return _table(["clicks", "mask", "mIoU", "background", *names], rows)


def write_card(card: Path, report: str) -> None:
    """Replaces what stands below the line '## Measured' of a model card; raises ValueError if there is none."""
    text = card.read_text()
    head, mark, _ = text.partition("## Measured\n")
    if not mark:
        raise ValueError(f"{card}: no line '## Measured'; add one where the figures are to stand")
    card.write_text(f"{head}{mark}\n{report}")


def report(args: argparse.Namespace) -> Iterator[str]:
    """The parts of the report for the command line's `args`, as Markdown, each as soon as it is measured."""
    sam = build_sam(args.sam, args.checkpoint)
    head = f"Weights sha256 `{sam_digest(args.sam, args.checkpoint)}`, float32, seed {args.seed}."
    if args.sam == "tiny":
        metadata = load_checkpoint(sam_checkpoint(args.sam, args.checkpoint))[1]
        yield f"{head} Trained for {metadata['steps']} steps."
        yield "### Procedural surfaces of seeds not trained on: mean IoU per piece"
        yield procedural_table(sam, args.images, args.points)
    else:
        yield head
    for folder in args.sets:
        yield f"### {folder.name}: IoU in %, clicks on each connected part of the truth, class known"
        yield set_table(sam, folder, args.points, args.seed)
        yield f"The same clicks on every {args.every}th image, and what they give without any weights:"
        yield set_table(sam, folder, args.points, args.seed, every=args.every, methods=METHODS)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sam", default="tiny", help="tiny (default), vit_b, vit_l or vit_h")
    parser.add_argument("--checkpoint", type=Path, help="weights; default: the embedded or the official ones")
    parser.add_argument(
        "--sets", type=Path, nargs="*", default=[], help="folders of images/, masks/, classes.txt"
    )
    parser.add_argument("--images", type=int, default=500, help="procedural images (default 500; tiny only)")
    parser.add_argument("--points", type=int, nargs="*", default=[1, 3], help="clicks a piece (default 1 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the clicks on real sets (default 0)")
    parser.add_argument(
        "--every",
        type=int,
        default=20,
        help="try GrabCut and the random walker on every n-th image (default 20)",
    )
    parser.add_argument("--card", type=Path, help="model card whose section '## Measured' is to be replaced")
    args = parser.parse_args()
    parts = []
    for part in report(args):
        print(part, end="\n\n", flush=True)
        parts.append(part)
    if args.card:
        write_card(args.card, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
