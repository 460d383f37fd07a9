"""`bluemask init`: look at an image folder, say what is in it, write a config that runs as it is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from flows.catalogue import DEPTHS
from flows.config import NORMAL, ConfigError
from storage.pixels import UnreadableImage, read_header, read_pixels
from storage.sources import Scan, SourceError, scan
from viewer.words import so_many

FEW = 10
"""Images of a class below which a network hardly learns it."""
LISTED = 5
"""Most problems of one kind that are written out."""
MARKED = ("masks", "mask", "annotations", "ground_truth", "labels", "gt")
"""Names of folders that rather hold labels than images."""


@dataclass(frozen=True)
class Look:
    """One image file, decoded once."""

    path: str
    width: int = 0
    height: int = 0
    bits: int = 0
    channels: int = 0
    peak: int = 0
    unreadable: str = ""


@dataclass
class Findings:
    """What an image folder holds."""

    folder: Path
    labels: Path | None
    seen: Scan
    looks: list[Look] = field(default_factory=list)

    @property
    def readable(self) -> list[Look]:
        """Images that can be decoded."""
        return [look for look in self.looks if not look.unreadable]

    @property
    def unreadable(self) -> list[Look]:
        """Images that will be quarantined."""
        return [look for look in self.looks if look.unreadable]

    @property
    def value_range(self) -> tuple[int, int] | None:
        """One range for images of more than 8 bits: 0 to the least usual depth that holds them all."""
        peaks = [look.peak for look in self.readable if look.bits > 8]
        if not peaks:
            return None
        return 0, next(2**bits - 1 for bits in DEPTHS if max(peaks) < 2**bits)

    def counts(self) -> Counter[str]:
        """Images of each class that can be read; those without a defect under the empty name."""
        lost = {look.path for look in self.unreadable}
        counts: Counter[str] = Counter()
        for source in self.seen.sources:  # a class of which nothing can be read counts 0
            counts.update(dict.fromkeys(source.labels or ("",), int(source.path not in lost)))
        return counts

    def warnings(self) -> list[str]:
        """What will hurt the result, each with a remedy."""
        return [*self.seen.problems, *self._of_classes(), *self._of_files()]

    def _of_classes(self) -> Iterator[str]:
        counts, classes = self.counts(), self.seen.classes
        if not classes:
            yield "no image shows a defect: there is nothing to segment; correct the labels or data.normal"
        if len(classes) == 1 and not counts[""]:
            yield (
                f"class {classes[0]!r} has nothing to be told apart from: add images without a defect "
                f"(in a folder {NORMAL[0]!r}), or of another class"
            )
        for name in classes:
            if name.casefold() in MARKED:
                yield f"class {name!r} sounds like labels rather than a defect; if so, move it out of {self.folder}"
            if counts[name] < FEW:
                images = so_many(counts[name], "images")
                yield f"class {name!r} has {images}; a network hardly learns a class from fewer than {FEW}"

    def _of_files(self) -> Iterator[str]:
        depths = {look.bits for look in self.readable}
        if max(depths, default=0) > 8 >= min(depths, default=0):
            yield "images of 8 bits and of more are mixed: those of 8 bits are taken as they are"
        for name in MARKED:
            if (self.folder.resolve().parent / name).is_dir():
                yield (
                    f"{self.folder.resolve().parent / name} is not used: image-level labels are enough. To use marks, "
                    "set data.annotations; to score, bluemask evaluate --masks"
                )


def look_at(folder: Path, labels: Path | None, console: Console) -> Findings:
    """List and decode every image below a folder. Raises SourceError where there is none that can be read."""
    found = Findings(folder, labels, scan(folder, labels, NORMAL))
    paths = [source.path for source in found.seen.sources]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        looks = pool.map(lambda path: _look(folder, path), paths)
        found.looks = list(
            track(looks, "looking at images", total=len(paths), console=console, transient=True)
        )
    if not found.readable:
        first = found.unreadable[0]
        raise SourceError(
            f"none of the {len(paths)} images in {folder} can be read; the first, {first.path}: {first.unreadable}"
        )
    return found


def _look(folder: Path, path: str) -> Look:
    try:
        header, pixels = read_header(folder / path), read_pixels(folder / path)
    except UnreadableImage as error:
        return Look(path, unreadable=error.reason)
    except OSError as error:
        return Look(path, unreadable=str(error.strerror))
    return Look(path, header.width, header.height, header.bits, header.channels, int(pixels.max(initial=0)))


def print_findings(found: Findings, console: Console) -> None:
    """What was found, as tables and sentences."""
    readable = f", {len(found.readable)} of them readable" if found.unreadable else ""
    words = f"[bold]{escape(str(found.folder))}[/]: {so_many(len(found.looks), 'images')}{readable}"
    console.print(words, highlight=False, soft_wrap=True)
    table = Table("class", box=None)
    table.add_column("images", justify="right")
    for name, count in sorted(found.counts().items()):
        table.add_row(escape(name) or "[dim]no defect[/]", str(count))
    console.print(table)
    if found.readable:
        console.print(_sizes(found.readable))
    several = sum(len(source.labels) > 1 for source in found.seen.sources)
    if several:
        console.print(f"{so_many(several, 'images')} with more than one class")
    if found.unreadable:
        console.print(f"[red]{len(found.unreadable)} cannot be read and will be quarantined[/]")
        for look in found.unreadable[:LISTED]:
            console.print(f"  {look.path}: {look.unreadable}", highlight=False, markup=False)
    for warning in found.warnings():
        console.print(f"[yellow]note[/] {escape(warning)}", highlight=False)


def _sizes(looks: Iterable[Look]) -> str:
    """Sizes, depths and channels in two sentences."""
    looks = list(looks)
    sides = [sorted(side) for side in zip(*((look.width, look.height) for look in looks), strict=True)]
    spans = [f"{s[0]}" if s[0] == s[-1] else f"{s[0]} to {s[-1]} (median {median(s):g})" for s in sides]
    depths = Counter(look.bits for look in looks)
    grey = sum(look.channels == 1 for look in looks)
    kinds = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(depths.items()))
    return f"{spans[0]} pixels wide, {spans[1]} high; {kinds}; {grey} grey, {len(looks) - grey} colour"


def config_text(found: Findings, out: Path, store: Path) -> str:
    """A commented config that runs as it is; paths are relative to it where that is short."""
    labels = f"  labels: {_path(found.labels, out)}\n" if found.labels else ""
    depth = found.value_range
    scaling = (
        f"  value_range: [{depth[0]}, {depth[1]}]   # images of more than 8 bits: this is spread over 0 to 255\n"
        if depth
        else ""
    )
    return f"""\
# Written by `bluemask init`. Run it: bluemask run {out.name}
# Every key that is not here has its default; docs/config.md explains them all.
# A key can be overridden for one run: BLUEMASK__AUGMENT__VIEWS=4 bluemask run {out.name}

data:
  folder: {_path(found.folder, out)}   # {so_many(len(found.readable), "images")} that can be read, {so_many(len(found.seen.classes), "classes")}
{labels}{scaling}  # Folders or labels of these names mean "no defect":
  normal: [{", ".join(NORMAL)}]
  # What you have marked by hand, if anything: a folder of index PNGs (k a class, 0 background, 255 unmarked),
  # or a CSV image,x,y,label of points (label: a class, or background). SAM is asked by your marks there.
  # annotations: marks/
  # points: points.csv

# Catalog, arrays, receipts, checkpoints and labels:
store: {_path(store, out)}

sam:
  # tiny comes with bluemask; vit_b, vit_l and vit_h are the official models, better and far slower.
  model: tiny
  # checkpoint: sam_vit_b_01ec64.pth

# Networks are trained anew when more than this share of the images differ from what they learned from:
retrain:
  policy: changed
  share: 0.1

# The largest arrays can be left out; they are made anew when something stale needs them.
keep:
  augmented: true
  embedding: true
"""


def _path(path: Path | None, out: Path) -> str:
    """A path as the config's reader would type it, quoted for YAML."""
    absolute = Path(path or ".").resolve()
    home = out.resolve().parent
    shown = os.path.relpath(absolute, home) if home.parent in (absolute, *absolute.parents) else str(absolute)
    return "'" + Path(shown).as_posix().replace("'", "''") + "'"


def initialise(folder: Path, *, out: Path, store: Path, labels: Path | None, force: bool) -> None:
    """Do what `bluemask init` does. Raises ConfigError where `out` is there already, unless forced.

    Nor may the store lie in the image folder, where its files would be taken for the user's.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; give another --out, or --force to replace it")
    if store.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{store} lies in the image folder {folder}; give a --store beside it")
    console = Console()
    found = look_at(folder, labels, Console(stderr=True))
    print_findings(found, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(config_text(found, out, store), encoding="utf-8")
    console.print(
        f"wrote [bold]{escape(str(out))}[/]; next: bluemask run {escape(str(out))}", highlight=False
    )
