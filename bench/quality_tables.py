"""The page and the plots of `bench.quality`, from its finished rows alone: no figure stands here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality_rows import BY_NAME, LINES, VARIANTS, Line
from bench.quality_taught import HALVES, PARTS

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]
"""Finished rows of one set by variant, one a seed."""
Value = Callable[[Row], Any]

GAINS = {
    "P over the better of P1° and P2°": (("full", "P"), ("full", "P1°"), ("full", "P2°")),
    "CTC, on P1°": (("full", "P1°"), ("plain", "P1°")),
    "CTC, on P": (("full", "P"), ("plain", "P")),
    "SAM and fusion, over P1°": (("full", "P"), ("full", "P1°")),
    "all views over flips, on P": (("full", "P"), ("flips", "P")),
    "all views over scales, on P": (("full", "P"), ("scales", "P")),
    "all views over flips, on P2°": (("full", "P2°"), ("flips", "P2°")),
    "all views over scales, on P2°": (("full", "P2°"), ("scales", "P2°")),
    "points over the CAM as prompts, on P2°": (("points", "P2°"), ("full", "P2°")),
    "points over the CAM as prompts, on P": (("points", "P"), ("full", "P")),
}
"""By title: a run's label map, and those of which the better one is taken off."""

HEAD = """# How good the labels are

Made by `python -m bench.quality`; every figure is measured, none is typed. In percent, from one confusion matrix over
all images of a set (never a mean over images); a pixel that a label map leaves open (255) counts as wrong. Where there
are several seeds, the mean ± the standard deviation over seeds. A seed decides the views, the prompts and both trainings.

The networks see image-level labels alone. Masks serve to score, and in two places that say so to teach: the row
`ceiling`, and the points of the rows `annotation`. Every threshold of the method was fixed beforehand by its config; the
row "other threshold" alone picks one by its score, on one half of the images, and is scored on the other half, both ways.
"""

CONFIDENCE = """AUROC of `score`: does an image have the class, the mean over classes; `seen` by the network that
was trained on these images' labels (the label itself is not shown to it when it scores), `withheld` by networks trained
without the image. AUROC of confidence: a right pixel of P against a wrong one, over all pixels, and over those that P
calls a defect. "10 % dropped": foreground mIoU when the least confident tenth of the pixels that P calls a defect is left
out of the count altogether. ECE: expected calibration error of the confidence on pixels that P calls a defect.
"""


def cell(values: Iterable[Any], factor: float = 100.0, digits: int = 1) -> str:
    """Mean ± standard deviation over seeds; – where nothing is known. One seed has no spread."""
    known = [factor * float(value) for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{round(float(np.mean(known)), digits) + 0.0:.{digits}f}"  # no -0.0
    return mean if len(known) == 1 else f"{mean} ± {np.std(known, ddof=1):.{digits}f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def page(found: Mapping[str, Rows], notes: Sequence[str], plots: Mapping[str, str]) -> str:
    """The whole page. found: rows by set; notes: sentences about what is not there; plots: pictures by set."""
    parts = [HEAD, *(f"- {note}\n" for note in notes)]
    for name, rows in found.items():
        parts.append(_about(name, rows))
        parts += _labels(rows)
        parts += [_gains(rows), _confidence(rows), _cost(rows)]
        if name in plots:
            parts.append(
                f"![{name}: foreground mIoU as doubtful pixels are dropped, and calibration]({plots[name]})\n"
            )
    return "\n".join([*parts, _glossary()])


def _about(name: str, rows: Rows) -> str:
    every = [row for some in rows.values() for row in some]
    seeds = sorted({row["seed"] for row in every})
    text = (
        f"## {name}\n\n{every[0]['images']} images; classes: {', '.join(every[0]['classes'])}; seeds "
        f"{', '.join(map(str, seeds))}. Measured on {'; '.join(sorted({row['machine'] for row in every}))}.\n"
    )
    if len({row["code"] for row in every}) > 1:
        text += "\n**These rows were not all made by the same code.** Start with another `--out` to make them all anew.\n"
    short = [v.name for v in VARIANTS if v.name in rows and len(rows[v.name]) < len(seeds)]
    return text + (f"\nNot yet of every seed: {', '.join(short)}.\n" if short else "")


# -- labels -----------------------------------------------------------------------------------------------


def _labels(rows: Rows) -> list[str]:
    """One table a part."""
    tables = []
    for part in dict.fromkeys(line.part for line in LINES):
        lines = [line for line in LINES if line.part == part and _of(rows, line)]
        if lines:
            tables.append(f"### {part[0].upper()}{part[1:]}\n\n{_table(rows, lines)}")
    return tables


def _of(rows: Rows, line: Line) -> list[Row]:
    """A line's metrics, one a seed."""
    return [
        row["versions"][line.label]
        for row in rows.get(line.variant, ())
        if line.label in row.get("versions", {})
    ]


def _table(rows: Rows, lines: Sequence[Line]) -> str:
    metrics = {line: _of(rows, line) for line in lines}
    names = ["background", *next(iter(rows.values()))[0]["classes"]]
    heads = ["", "label", "mIoU", "mIoU, defects", "ACC", *names, "left open"]
    body = []
    for line, found in metrics.items():
        main = [cell(one[key] for one in found) for key in ("mIoU", "mIoU_foreground", "ACC")]
        ious = [cell(one["IoU"].get(name) for one in found) for name in names]
        body.append([line.title, line.label, *main, *ious, cell(one["ignored"] for one in found)])
    return markdown(heads, body)


def _gains(rows: Rows) -> str:
    """What each part of the method adds, seed by seed."""
    by_seed = {name: {row["seed"]: row for row in some} for name, some in rows.items()}
    body = []
    for title, key in product(GAINS, ("mIoU", "mIoU_foreground")):
        (variant, label), *others = GAINS[title]
        differences = []
        for seed, row in by_seed.get(variant, {}).items():
            below = [
                by_seed.get(name, {}).get(seed, {}).get("versions", {}).get(other) for name, other in others
            ]
            if None not in below:
                differences.append(row["versions"][label][key] - max(one[key] for one in below))
        if differences:
            body.append([title, key.replace("_foreground", ", defects"), cell(differences, digits=2)])
    return f"### What each part adds\n\n{markdown(['', 'of', 'percentage points'], body)}" if body else ""


# -- confidence, seconds, size ----------------------------------------------------------------------------


def _confidence(rows: Rows) -> str:
    def part(*keys: str) -> Value:
        def value(row: Row) -> Any:
            for key in keys:
                row = row[key] if isinstance(row, Mapping) and key in row else None  # type: ignore[assignment]
            return row

        return value

    columns: dict[str, Value] = {
        "AUROC of score, seen": part("score", "mean"),
        "AUROC of confidence": part("confidence", "auroc"),
        "of it, on defects": part("confidence", "auroc_defects"),
        "mIoU, defects": part("confidence", "kept"),
        "10 % dropped": part("confidence", "dropped"),
        "gain": lambda row: row["confidence"]["dropped"] - row["confidence"]["kept"],
        "ECE": part("confidence", "ece"),
    }
    withheld = cell(row["score"]["mean"] for row in rows.get("withheld", ()))
    body = [
        [
            v.name,
            *(cell(map(value, rows[v.name])) for value in columns.values()),
            withheld if v.name == "full" else "–",
        ]
        for v in VARIANTS
        if v.name in rows and v.kind != "withheld"
    ]
    table = markdown(["run", *columns, "AUROC of score, withheld"], body)
    return f"### Confidence\n\n{CONFIDENCE}\n{table}"


def _size(cost: Mapping[str, float] | None) -> str:
    return "–" if cost is None else f"{cost['params']:.2f} · {cost['gflops']:.2f}"


def _cost(rows: Rows) -> str:
    """Seconds an image by stage; parameters and operations by network."""
    runs = {name: some for name, some in rows.items() if "seconds" in some[0]}
    if not runs:
        return ""
    stages = list(dict.fromkeys(name for some in runs.values() for row in some for name in row["seconds"]))
    body = [
        [v.name, *(cell((row["seconds"].get(stage) for row in runs[v.name]), 1, 3) for stage in stages),
         cell((sum(row["seconds"].values()) for row in runs[v.name]), 1, 2)]
        for v in VARIANTS if v.name in runs
    ]  # fmt: skip
    networks = list(dict.fromkeys(name for some in runs.values() for name in some[0]["cost"]))
    size = [
        [v.name, *(_size(row["cost"].get(name)) for name in networks),
         f"{sum(c['params'] for c in row['cost'].values()):.2f} · {sum(c['gflops'] for c in row['cost'].values()):.2f}"]
        for v in VARIANTS if v.name in runs for row in runs[v.name][:1]
    ]  # fmt: skip
    return (
        "### Seconds an image\n\nBy stage, as its receipts have it, one process; trainings divided by the images. A "
        "stage that a run shares with another one is counted in both.\n\n" + markdown(["run", *stages, "all"], body)
        + "\n### Params/M · GFLOPs\n\nOf one image with all its views, counted on the first labelled one; a "
        "multiplication and an addition are two operations. SAM's share grows with the pieces that it is asked about.\n\n" + markdown(["run", *networks, "all"], size)
    )  # fmt: skip


def _glossary() -> str:
    lines = [f"- **{line.title}** ({line.part}, {line.label}): {line.says}." for line in LINES]
    lines = [line for line in dict.fromkeys(lines) if "refinements" not in line]
    runs = [f"- **{v.name}**: {v.says}." for v in VARIANTS]
    beside = (
        f"The ceiling trains {PARTS} networks, each of which labels a fifth of the images that it never saw, with the "
        f"config's own number of steps. Withheld scores come from {HALVES} ViTs, each trained on the other half.\n"
    )
    return "\n".join(["## The rows\n", *lines, "\n## The runs\n", *runs, "", beside])


# -- plots ------------------------------------------------------------------------------------------------


def draw(path: Path, name: str, rows: Rows) -> bool:
    """Foreground mIoU as doubtful pixels are dropped, and calibration; False where there is nothing to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    runs = {v.name: rows[v.name] for v in VARIANTS if v.name in rows and "confidence" in rows[v.name][0]}
    if not runs:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for run, some in runs.items():
        if BY_NAME[run].group == "refinements":
            continue
        shares = 100 * np.array(some[0]["confidence"]["shares"])
        left.plot(shares, 100 * np.mean([row["confidence"]["curve"] for row in some], 0), label=run)
        for n, row in enumerate(some):
            points = np.array(row["confidence"]["reliability"]).reshape(-1, 3)
            right.plot(points[:, 0], points[:, 1], marker=".", color=left.lines[-1].get_color(), alpha=0.7,
                       label=run if n == 0 else None)  # fmt: skip
    left.set(
        xlabel="% of the pixels called a defect that are dropped, least confident first",
        ylabel="mIoU of defects, %",
    )
    right.plot([0, 1], [0, 1], color="grey", linestyle=":")
    right.set(xlabel="confidence on pixels called a defect", ylabel="share right")
    left.legend()
    figure.suptitle(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
