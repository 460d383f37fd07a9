"""bluemask's speed against the official segment_anything predictor, in the same run: a table and a plot.

    python -m bench.throughput                              # `tiny`, and whole runs
    python -m bench.throughput --model vit_b --images 1     # an official model: encoder and decoder alone on a CPU

Random weights of the official size serve where no --checkpoint is given: speed does not depend on them. Writes
throughput.md, throughput.json and throughput.png into --out. Nothing is compared with figures of another run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from bench.loops import compare, encoder_flops, gemm_rate, make_sams, random_weights, views_of
from models.surfaces import generate

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("blob", "dent", "scratch")
Rows = list[tuple[str, str]]


def machine(device: str, rates: dict[str, float]) -> Rows:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = named[0] if named else processor
    rows = [("processor", f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used")]
    if device == "cuda":
        rows.append(("accelerator", torch.cuda.get_device_name()))
    rows.append(("torch", torch.__version__))
    return rows + [(f"GEMM, {name}", f"{rate / 1e9:.0f} GFLOP/s") for name, rate in rates.items()]


def sam_rows(given: argparse.Namespace, rates: dict[str, float], folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Encoder alone, encoder and decoder, against the official loop."""
    official, ours = make_sams(given.model, given.checkpoint, folder, given.device)
    images = views_of(given.images, given.side, given.views)
    sides = compare(official, ours, images, tuple(given.precisions))
    count = given.images * given.views
    flops = encoder_flops(given.model)
    rows = []
    for name, seconds in sides.seconds.items():
        part = name.split(", ")[1]
        ratio = sides.seconds[f"official, {part}"] / seconds
        text = f"{1e3 * seconds / count:.0f} ms a view, {ratio:.2f}×"
        if part == "encoder":
            rate = rates["bfloat16" if "bfloat16" in name else "float32"]
            text += f", {100 * flops * count / seconds / rate:.0f} % of the GEMM rate"
        rows.append((name, text))
    rows.append(("pixels that differ from the official masks, float32", f"{100 * sides.different:.4f} %"))
    if "bfloat16" in given.precisions:
        rows.append(("mean IoU with the official float32 masks, bfloat16", f"{sides.iou:.4f}"))
    return rows, {"views": count, "flops_a_view": flops, **vars(sides)}


# -- whole runs -------------------------------------------------------------------------------------------


def make_site(folder: Path, given: argparse.Namespace, images: int) -> Path:
    """Procedural images, a folder per class, and a config; every array is kept."""
    for n in range(images):
        kind = KINDS[n % len(KINDS)]
        surface = generate(800_000_000 + n, size=(given.side, given.side), kind=kind, defects=PER_IMAGE)
        path = folder / "images" / kind / f"{n:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), surface.image[..., ::-1])
    sam = {"model": given.model} | ({"checkpoint": str(given.checkpoint)} if given.checkpoint else {})
    values = {
        "data": {"folder": "images"},
        "store": "store",
        "device": given.device,
        "sam": sam,
        "augment": {"views": given.views},
        "train_vit": {"epochs": 2, "min_steps": 1},
        "train_fusion": {"min_steps": 40, "max_steps": 40},
        "retrain": {"promote": "always"},  # a night that keeps the old network would have nothing to do
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder / "run.yaml"


PER_IMAGE = 2


def run(config: Path, **changes: Any) -> dict[str, Any]:
    """A whole run in a process of its own, after changes to the config's sections."""
    values = yaml.safe_load(config.read_text())
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "bench.whole", str(config)]
    environment = {**os.environ, "PREFECT_HOME": str(config.parent / "prefect")}
    result = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def whole_rows(given: argparse.Namespace, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Whole runs over growing sets, then what a night costs on the largest."""
    found: dict[str, Any] = {}
    rows: Rows = []
    for images in given.counts:
        site = make_site(folder / str(images), given, images)
        found[str(images)] = whole = run(site)
        rows.append((f"whole run, {images} images", _whole_text(whole)))
    if len(given.counts) > 1:
        walls = [found[str(n)]["wall"] - found[str(n)]["trainings"] for n in given.counts]
        slope, start = np.polyfit(given.counts, walls, 1)
        off = max(abs(walls[i] / (start + slope * n) - 1) for i, n in enumerate(given.counts))
        rows.append(
            (
                "straight line, without trainings",
                f"{start:.1f} s + {slope:.3f} s an image, at most {100 * off:.0f} % off",
            )
        )
        first, last = found[str(given.counts[0])]["gb"], found[str(given.counts[-1])]["gb"]
        rows.append(
            (
                "peak memory, largest against smallest set",
                f"{last:.2f} GB, {100 * (last / first - 1):+.0f} %",
            )
        )
    night, more = night_rows(given, site, whole)
    return rows + night, found | more


def _whole_text(whole: dict[str, Any]) -> str:
    inside = whole["models"] + whole["trainings"]
    return (
        f"{whole['wall']:.1f} s, {whole['trainings']:.1f} s of it trainings; {whole['wall'] / inside:.2f}× the time in "
        f"models, {100 * (1 - inside / whole['wall']):.0f} % outside; {whole['gb']:.2f} GB at most"
    )


def night_rows(given: argparse.Namespace, site: Path, whole: dict[str, Any]) -> tuple[Rows, dict[str, Any]]:
    """Other prompts, another ViT, and nothing new at all, on a finished store."""
    prompted = run(site, prompt={"positives": 2})
    trained = run(site, train_vit={"seed": 1})
    decoded = sum(trained["steps"].get(step, 0.0) for step in ("mask", "ensemble", "fuse"))
    apart = sum(trained["steps"].get(step, 0.0) for step in ("cam", "train_vit", "train_fusion"))
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "bluemask.py"), "run", str(site)]
    subprocess.run(command, capture_output=True, check=True)
    idle = time.perf_counter() - started
    rows = [
        ("re-prompted run, no training", f"{prompted['wall']:.1f} s"),
        (
            "mask, ensemble and fuse after retraining the ViT",
            f"{decoded:.1f} s, {100 * decoded / whole['wall']:.1f} % of a full run (cam and trainings apart: {apart:.1f} s)",
        ),
        (f"rerun with nothing changed, {whole['images']} images", f"{idle:.1f} s, start of Python included"),
    ]
    return rows, {"prompted": prompted, "retrained": trained, "idle": idle}


# -- what comes out ---------------------------------------------------------------------------------------


def table(title: str, rows: Rows) -> str:
    """A Markdown table."""
    lines = [f"| {title} | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines) + "\n"


def draw(path: Path, sam: dict[str, Any], whole: dict[str, Any], counts: list[int]) -> None:
    """Bars of SAM's milliseconds a view, and the line of whole runs."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    if sam:
        names = list(sam["seconds"])
        left.barh(names, [1e3 * sam["seconds"][name] / sam["views"] for name in names], color="#3b6ea5")
        left.invert_yaxis()
        left.set_xlabel("ms a view")
    if whole:
        for key, label in (("wall", "whole run"), ("models", "in models"), ("trainings", "in trainings")):
            right.plot(counts, [whole[str(n)][key] for n in counts], marker="o", label=label)
        right.set_xlabel("images")
        right.set_ylabel("seconds")
        right.legend()
    figure.savefig(path, dpi=120)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--model", default="tiny", choices=["tiny", "vit_b", "vit_l", "vit_h"])
    parser.add_argument("--checkpoint", type=Path, help="official weights; none: random ones of that size")
    parser.add_argument("--device", default=device, choices=["cpu", "cuda"])
    parser.add_argument(
        "--images",
        type=int,
        default=8,
        help="images of the comparison with the predictor; 0: whole runs alone",
    )
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--side", type=int, default=200, help="side of the images in pixels")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--counts",
        nargs="*",
        type=int,
        help="images of the whole runs; none given: no whole runs (default: 25 50 100 200 for tiny)",
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    given = parser.parse_args()
    if given.counts is None:
        given.counts = [25, 50, 100, 200] if given.model == "tiny" or device == "cuda" else []
    return given


def main() -> None:
    """See the module's docstring."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    rates = {
        name: gemm_rate(dtype, given.device)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    with tempfile.TemporaryDirectory() as folder:
        text = table("machine", machine(given.device, rates))
        sam: dict[str, Any] = {}
        if given.images:
            rows, sam = sam_rows(given, rates, Path(folder))
            text += "\n" + table(f"SAM {given.model}, {given.images} images of {given.views} views", rows)
        whole: dict[str, Any] = {}
        if given.counts:
            if given.model != "tiny" and given.checkpoint is None:
                given.checkpoint = random_weights(given.model, Path(folder))
            rows, whole = whole_rows(given, Path(folder))
            text += "\n" + table("whole runs, every array kept", rows)
    (given.out / "throughput.md").write_text(text)
    (given.out / "throughput.json").write_text(json.dumps({"rates": rates, "sam": sam, "whole": whole}))
    draw(given.out / "throughput.png", sam, whole, given.counts)
    print(text)


if __name__ == "__main__":
    main()
