"""Labels out of a store in any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from flows.nights import contradicted_images
from flows.outputs import fresh_labels, made_before, outdated_labels
from flows.plan import Plan
from flows.summary import plan_of, stored_config
from flows.sweeping import sweep
from storage.reviews import Reviews, label_digest
from storage.store import Store, StoreError, WrongInputError
from tasks.export import UNKNOWN, ExportError, Images, Sample, Target, write_classes
from tasks.formats import format_of
from tasks.reading import Labelled
from tasks.written import Account, accounted, known_files
from viewer.words import so_many

PARTS = ("train", "val", "test")
MADE_AS = ".bluemask-format"
"""File in an export's folder that holds the name of its format."""
MAPS = {"p": "P", "p1": "P1", "p2": "P2"}
"""Label maps that can be exported, and what they are called."""
UNFINISHED = "UNFINISHED.txt"
"""In a folder as long as an export into it is under way, and after one that was broken off."""


@dataclass(frozen=True)
class Choice:
    """Which labels are exported, and how.

    reviewed: only accepted and corrected ones; confidence: below it a pixel becomes 255; classes: only images
    whose label names one of these, other classes become 255; split: shares of train, val and test; outdated: also those
    of an earlier run (see `flows.outputs.outdated_labels`); label_map: one of MAPS, which stands where nobody drew a mask.
    """

    reviewed: bool = False
    confidence: float = 0.0
    classes: tuple[str, ...] = ()
    split: tuple[float, ...] = (1.0,)
    outdated: bool = False
    label_map: str = "p"

    def __post_init__(self) -> None:
        """Refuse what cannot be had. Raises ExportError."""
        if self.label_map not in MAPS:
            raise ExportError(f"map {self.label_map!r} is not known; choose one of {', '.join(MAPS)}")
        if self.confidence > 0 and not self.confident:
            raise ExportError(
                f"the confidence is that of P, and says nothing of {MAPS[self.label_map]}; export P, or leave --confidence out"
            )

    @property
    def confident(self) -> bool:
        """Whether the store's confidence is that of the map."""
        return self.label_map == "p"

    def made_as(self, kind: str) -> str:
        """What a folder holds that is exported so in a format."""
        return kind if self.label_map == "p" else f"{kind} of {MAPS[self.label_map]}"


def split_of(text: str) -> tuple[float, ...]:
    """Shares from a text such as 0.8,0.1,0.1. Raises ExportError unless they are one to three that sum to 1."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if not 1 <= len(shares) <= 3 or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ExportError(
            f"split {text!r}: expected shares of train, val and test that sum to 1, as 0.8,0.1,0.1"
        )
    return shares


def part_of(sha256: str, shares: Sequence[float]) -> str:
    """An image's part: decided by its content alone, so that it never moves when others come or go."""
    place, edge = int(sha256[:12], 16) / 16**12, 0.0
    for name, share in zip(PARTS, shares, strict=False):
        edge += share
        if place < edge:
            return name
    return PARTS[len(shares) - 1]


class Selection:
    """The images that are exported, each with the label that counts."""

    def __init__(self, store: Store, items: Sequence[Labelled], choice: Choice, images: Path) -> None:
        """images: the image folder. Raises ExportError for a class that there is not, or where nothing is left."""
        self.reviews, self.choice, self.images = Reviews(store), choice, images
        self.classes = tuple(store.classes())
        unknown = sorted(set(choice.classes) - set(self.classes))
        if unknown:
            raise ExportError(f"class {unknown[0]!r} is none of {', '.join(self.classes)}")
        self.left_out: Counter[str] = Counter()
        self.refused: set[str] = set()
        """Paths of images whose label somebody rejected, or wants corrected."""
        self.emptied = 0
        """Labels of which the confidence asked for left nothing, as far as they were given out."""
        self.items = [item for item in items if self._wanted(item)]
        self.paths = {item.row.path for item in self.items}
        if not self.items:
            raise ExportError(f"no label is left to export: {self.told() or 'there is none'}")

    def _wanted(self, item: Labelled) -> bool:
        why = self._against(item)
        if why:
            self.left_out[why] += 1
        return not why

    def _against(self, item: Labelled) -> str:
        """Why an image is left out; empty where it is not."""
        if self.choice.classes and not set(item.row.labels) & set(self.choice.classes):
            return "of other classes"
        try:
            verdict = self._verdict(item)
        except StoreError:
            return "with a damaged review (`bluemask verify STORE --repair`)"
        if verdict in ("reject", "correct"):
            self.refused.add(item.row.path)
            return {"reject": "rejected", "correct": "in need of correction"}[verdict]
        return "not reviewed" if self.choice.reviewed and verdict is None else ""

    def _verdict(self, item: Labelled) -> str | None:
        """What was said of the label that counts now; a verdict on another label is none."""
        last = self.reviews.history(item.row.sha256).last
        if last.verdict is None:
            return None
        return (
            last.verdict
            if last.judged == (last.mask or label_digest(item.array(self.choice.label_map)))
            else None
        )

    def judged(self, item: Labelled) -> bool:
        """Whether somebody has given a verdict on the image."""
        return self.reviews.history(item.row.sha256).last.verdict is not None

    def drawn(self, item: Labelled) -> bool:
        """Whether the label that counts was drawn by somebody."""
        return bool(self.reviews.history(item.row.sha256).last.mask)

    def told(self) -> str:
        """How many images were left out, and why, in words."""
        return ", ".join(f"{count} {why}" for why, count in self.left_out.items())

    def samples(self) -> Iterator[Sample]:
        """One after the other."""
        for item in self.items:
            try:
                label = self._label(item)
            except StoreError as error:
                raise StoreError(f"{item.row.path}: {error}") from error
            yield Sample(
                name=item.row.path,
                file=self.images / item.row.path,
                label=label,
                part=part_of(item.row.sha256, self.choice.split),
                array=item.array,
            )

    def _label(self, item: Labelled) -> np.ndarray:
        label = item.label(self.reviews, name=self.choice.label_map)
        if self.choice.confidence > 0 and not self.drawn(item):  # what was drawn by hand is sure
            label = np.where(item.array("confidence") < self.choice.confidence, np.uint8(UNKNOWN), label)
            self.emptied += bool((label == UNKNOWN).all())
        if self.choice.classes:
            kept = [0, UNKNOWN, *(self.classes.index(name) + 1 for name in self.choice.classes)]
            label = np.where(np.isin(label, kept), label, np.uint8(UNKNOWN))
        return np.asarray(label, np.uint8)


def export_store(
    root: Path,
    out: Path,
    console: Console,
    *,
    kind: str = "png",
    images: Images | None = None,
    choice: Choice | None = None,
) -> None:
    """Write the labels that count of every finished image, or P1 or P2 in P's place, and classes.txt.

    kind: of FORMATS; images: None as the format has it. Raises ExportError or StoreError.
    """
    wanted, choice = format_of(kind), choice or Choice()
    store = Store.existing(root)
    config = stored_config(store)
    plan = plan_of(store, config)
    items, old = _found(store, plan, choice)
    _refuse_places(out, config.data.folder, store)
    _refuse_mixture(out, choice.made_as(kind))
    selection = Selection(store, items, choice, config.data.folder)
    target = Target(
        out=out,
        classes=selection.classes,
        images=images or wanted.images,
        names=tuple(item.row.path for item in selection.items),
        parts=PARTS[: len(choice.split)],
        confident=choice.confident,
    )
    full = out.is_dir() and any(path.name != UNFINISHED for path in out.iterdir())
    before, total = known_files(out), len(selection.items)
    out.mkdir(parents=True, exist_ok=True)
    with accounted(out, str(store.root.resolve()) if store.local else store.name) as account:
        write_classes(out, selection.classes)
        begun = _begun(selection, account, choice.made_as(kind))
        said = wanted.write(track(begun, "exporting", total, console=console, transient=True), target)
    swept = sweep(before, account, selection, plan.rows, target.images)
    (out / UNFINISHED).unlink(missing_ok=True)
    console.print(f"{so_many(total, 'labels')} and classes.txt in {out}", highlight=False)
    if not choice.confident:
        drawn = so_many(sum(map(selection.drawn, selection.items)), "masks")
        said.append(
            f"{MAPS[choice.label_map]} of each image, 255 where it is unsure; {drawn} drawn by hand in its place"
        )
    for line in said + [f"left out: {selection.told()}"] * bool(selection.left_out):
        console.print(line, highlight=False, markup=False)
    if full and not before:
        swept.append(
            f"[yellow]{out} was not empty[/]: labels of an earlier export may lie there under other names; "
            "export into an empty folder if that matters"
        )
    waiting = sum(row.status == "active" for row in plan.rows) - len(items)
    for line in swept + _doubts(root, selection, config.fuse.cap, old, waiting) + _suspects(store, selection):
        console.print(line, highlight=False)


def _doubts(root: Path, selection: Selection, cap: float, old: set[int], waiting: int) -> list[str]:
    """What is to be known of labels that say nothing, are of an earlier run, or are not there.

    cap: of the confidence, where it is in doubt; old: ids of images whose label is of an earlier run; waiting: images without one.
    """
    told, choice = [], selection.choice
    if selection.emptied:
        told.append(
            f"[yellow]{so_many(selection.emptied, 'labels')} with 255 everywhere[/]: no pixel of them reaches --confidence "
            f"{choice.confidence:g} (images in which a class of the label was found nowhere reach {cap:g} at most); take a lower one"
        )
    if earlier := sum(item.row.id in old and not selection.drawn(item) for item in selection.items):
        told.append(
            f"[yellow]{so_many(earlier, 'labels')} of an earlier run[/], before something changed: bluemask status {root}"
        )
    if waiting:
        missing = "a label" if choice.outdated else "an up-to-date label"
        told.append(f"[yellow]{so_many(waiting, 'images')} without {missing}[/]: bluemask status {root}")
    return told


def _suspects(store: Store, selection: Selection) -> list[str]:
    """What is to be known of images that are exported under a class which the classifier contradicts."""
    known = contradicted_images(store)
    paths = [item.row.path for item in selection.items if item.row.id in known and not selection.judged(item)]
    if not paths:
        return []
    more = " and others" * (len(paths) > 1)
    told = f"[yellow]{so_many(len(paths), 'labels')} that the classifier contradicts[/], perhaps in the wrong class's folder: "
    told += f"{escape(paths[0])}{more}; a verdict in `bluemask browse {store.name}` settles it"
    return [told]


def _found(store: Store, plan: Plan, choice: Choice) -> tuple[list[Labelled], set[int]]:
    """Images that have a label, and the ids of those whose label is outdated. Raises StoreError where there is none."""
    found = fresh_labels(store, plan)
    old = outdated_labels(store, plan) if choice.outdated else []
    if not found and not old:
        none = f"{store.root} holds no {'label of the images as they are' if choice.outdated else 'up-to-date label'}"
        more = not choice.outdated and any(made_before(plan, block) for block in plan.blocks)
        remedy = "; `--outdated` exports those of an earlier run" if more else ""
        raise StoreError(f"{none} (`bluemask status` says why); `bluemask run CONFIG` makes them{remedy}")
    return sorted(found + old, key=lambda item: item.row.path), {item.row.id for item in old}


def _refuse_places(out: Path, images: Path, store: Store) -> None:
    """Labels bear the images' names: written among them, they would take their place; and a store is no place for them."""
    target = out.resolve()
    if target.is_relative_to(images.resolve()) or images.resolve().is_relative_to(target):
        raise WrongInputError(f"{out} holds the images themselves ({images}); export to another folder")
    if store.local and (
        target.is_relative_to(store.root.resolve()) or store.root.resolve().is_relative_to(target)
    ):
        raise WrongInputError(
            f"{out} holds the store, or lies in it ({store.root}); export to another folder"
        )
    if out.exists() and not out.is_dir():
        raise WrongInputError(f"{out} is a file; name a folder for the labels")


def _begun(selection: Selection, account: Account, made: str) -> Iterator[Sample]:
    """The samples; the folder is the format's from the first one on, and no sooner: until then all may be refused."""
    out = account.out
    (out / UNFINISHED).write_text(
        "This export is under way, or was broken off: files are missing.\n", encoding="utf-8"
    )
    (out / MADE_AS).write_text(f"{made}\n", encoding="utf-8")
    for item, sample in zip(selection.items, selection.samples(), strict=True):
        account.image, account.sha256 = sample.name, item.row.sha256
        yield sample
    account.image = account.sha256 = ""


def _refuse_mixture(out: Path, made: str) -> None:
    """Two formats or maps in one folder would each be read with the other's files among its own."""
    try:
        before = (out / MADE_AS).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    if before != made:
        raise WrongInputError(f"{out} holds an export as {before!r}; export {made!r} into another folder")
