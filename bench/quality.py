"""How good the labels are, on whole sets with masks: tables and plots.

    python -m bench.quality                                                   # every set, three seeds: for a machine with time
    python -m bench.quality --sets sd900 --images 24 --seeds 0 --rows full    # minutes

Each finished row of a set and a seed is kept below --out; a second start goes on where the first one ended, and a row is
done again only where its config, images, masks, weights or stages' versions have changed. Variants of one set and seed
share a store, so that SAM's encoder runs once for all that have the same views. The page is written to
OUT/results.md, with --write-docs to docs/results.md as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from bench.quality_rows import BY_NAME, GROUPS, USUAL, VARIANTS, Variant, chosen, present
from bench.quality_run import Site, code_digest, measure
from bench.quality_sets import ROOT, SETS, ImageSet, NoSetError, locate, subset
from bench.quality_tables import draw, page
from bench.quality_taught import ceiling, withheld

Found = dict[str, dict[str, list[dict[str, Any]]]]
"""Finished rows by set and variant, one a seed."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    listed = "\n".join(f"  {v.name:16} {v.group:12} {v.says}" for v in VARIANTS)
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nrows (name, group, what they are):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--rows", nargs="+", default=list(USUAL), metavar="ROW",
        help=f"names, groups ({', '.join(GROUPS)}) or `all`; what they need is run too (default: {' '.join(USUAL)})",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, metavar="N", help="about N images of each set: every k-th of a class"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "quality", help="stores, rows, results.md"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real sets"
    )
    parser.add_argument("--bluefilm", type=Path, help="folder with images/ and masks/ of the blue-film set")
    parser.add_argument(
        "--base", type=Path, help="YAML with config keys for every run, such as `sam: {model: vit_b}`"
    )
    parser.add_argument(
        "--ceiling-steps", type=int, help="steps of each of the ceiling's folds; else the config's"
    )
    parser.add_argument(
        "--drop-stores", action="store_true",
        help="remove a store once its rows are done: a later row must make its arrays anew, networks are kept",
    )  # fmt: skip
    parser.add_argument(
        "--remark",
        action="append",
        default=[],
        metavar="TEXT",
        help="a sentence for the top of the page; may be repeated",
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/results.md and its plots too")
    given = parser.parse_args(words)
    try:
        given.variants, absent = present(chosen(given.rows))
        given.notes = [*given.remark, *absent]
    except ValueError as error:
        parser.error(str(error))
    given.base = {} if given.base is None else yaml.safe_load(given.base.read_text(encoding="utf-8"))
    given.out = given.out.resolve()
    return given


def sets(given: argparse.Namespace, console: Console) -> list[ImageSet]:
    """The sets that can be had; a sentence about each other one goes to the notes."""
    found = []
    for name in given.sets:
        try:
            whole = locate(name, data=given.data, bluefilm=given.bluefilm, out=given.out, console=console)
            found.append(subset(whole, given.images, given.out / f"{name}-{given.images}"))
        except NoSetError as error:
            given.notes.append(f"Left out: {error}")
    return found


def do(site: Site, variant: Variant, console: Console) -> None:
    """Make and measure one row, unless it is done."""
    if site.finished_row(variant) is not None:
        console.print("  done before")
        return
    site.run(BY_NAME["full"] if variant.kind != "run" else variant, console)
    if variant.kind == "run":
        figures = measure(site, variant, console)
    elif variant.kind == "ceiling":
        figures = ceiling(site, console)
    else:
        figures = withheld(site, console)
    row = site.write(variant, figures)
    if "P" in row.get("versions", {}):
        best = row["versions"]["P"]
        console.print(f"  P: mIoU {100 * best['mIoU']:.2f}, of defects {100 * best['mIoU_foreground']:.2f}")


def sites(given: argparse.Namespace, images: ImageSet) -> list[Site]:
    """One a seed."""
    return [
        Site(given.out / images.name / f"seed-{seed}", images, seed, given.base, given.ceiling_steps)
        for seed in given.seeds
    ]


def gathered(given: argparse.Namespace, every: Sequence[ImageSet]) -> Found:
    """All finished rows of the chosen sets and seeds, whichever start made them."""
    found: Found = {}
    for images in every:
        for variant in present(VARIANTS)[0]:
            rows = [row for site in sites(given, images) if (row := site.finished_row(variant)) is not None]
            if rows:
                found.setdefault(images.name, {})[variant.name] = rows
    return found


def write(given: argparse.Namespace, found: Found) -> list[Path]:
    """The page and its plots, below --out and where asked for in docs/. Returns what was written."""
    drawn = {name: f"results/{name}.png" for name, rows in found.items()
             if draw(given.out / "results" / f"{name}.png", name, rows)}  # fmt: skip
    text = page(found, given.notes, drawn)
    folders = [given.out, *([ROOT / "docs"] if given.write_docs else [])]
    for folder in folders:
        (folder / "results.md").write_text(text, encoding="utf-8")
        for plot in drawn.values():
            (folder / plot).parent.mkdir(exist_ok=True)
            if folder != given.out:
                shutil.copyfile(given.out / plot, folder / plot)
    return [folder / "results.md" for folder in folders]


def main(words: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    given, console = arguments(words), Console()
    given.out.mkdir(parents=True, exist_ok=True)
    code_digest()  # of what runs from here on
    os.environ.setdefault("PREFECT_HOME", str(given.out / "prefect"))
    every = sets(given, console)
    for note in given.notes:
        console.print(f"[dim]{escape(note)}[/]")
    todo = [(site, v) for images in every for site in sites(given, images) for v in given.variants]
    failed = 0
    for n, (site, variant) in enumerate(todo, start=1):
        console.print(
            f"[bold][{n}/{len(todo)}] {site.images.name}, seed {site.seed}: {variant.name}[/] ({variant.says})",
            markup=True, highlight=False,
        )  # fmt: skip
        try:
            do(site, variant, console)
        except (RuntimeError, ValueError) as error:  # the other rows still count
            failed += 1
            given.notes.append(f"Failed: {site.images.name}, seed {site.seed}, {variant.name}: {error}")
            console.print(f"  [red]failed[/] {escape(str(error))}")
        if given.drop_stores and (n == len(todo) or todo[n][0] is not site) and not failed:
            shutil.rmtree(site.store, ignore_errors=True)
        if found := gathered(given, every):
            write(given, found)
    if found := gathered(given, every):
        console.print(f"written: {', '.join(map(str, write(given, found)))}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
