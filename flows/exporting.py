"""Labels out of a store in any format, and corrected masks back into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from rich.console import Console
from rich.progress import track

from flows.outputs import finished, fresh_labels, made_before, outdated_labels
from flows.plan import Plan
from flows.summary import plan_of, stored_config
from storage.reviews import Review, Reviews, label_digest
from storage.store import Store, StoreError, WrongInputError
from tasks.export import UNKNOWN, ExportError, Images, Sample, Target, write_classes
from tasks.formats import format_of, reader_of
from tasks.reading import Labelled
from viewer.words import so_many

PARTS = ("train", "val", "test")
MADE_AS = ".bluemask-format"
"""File in an export's folder that holds the name of its format."""
UNFINISHED = "UNFINISHED.txt"
"""In a folder as long as an export into it is under way, and after one that was broken off."""


@dataclass(frozen=True)
class Choice:
    """Which labels are exported, and how.

    reviewed: only accepted and corrected ones; confidence: below it a pixel becomes 255; classes: only images
    whose label names one of these, other classes become 255; split: shares of train, val and test; outdated: also those
    of an earlier run (see `flows.outputs.outdated_labels`).
    """

    reviewed: bool = False
    confidence: float = 0.0
    classes: tuple[str, ...] = ()
    split: tuple[float, ...] = (1.0,)
    outdated: bool = False


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
        self.emptied = 0
        """Labels of which the confidence asked for left nothing, as far as they were given out."""
        self.items = [item for item in items if self._wanted(item)]
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
            return {"reject": "rejected", "correct": "in need of correction"}[verdict]
        return "not reviewed" if self.choice.reviewed and verdict is None else ""

    def _verdict(self, item: Labelled) -> str | None:
        """What was said of the label that counts now; a verdict on another label is none."""
        last = self.reviews.history(item.row.sha256).last
        if last.verdict is None:
            return None
        return last.verdict if last.judged == (last.mask or label_digest(item.array("p"))) else None

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
        label = item.label(self.reviews)
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
    """Write the labels that count of every finished image, and classes.txt.

    kind: of FORMATS; images: None as the format has it. Raises ExportError or StoreError.
    """
    wanted, choice = format_of(kind), choice or Choice()
    store = Store.existing(root)
    config = stored_config(store)
    plan = plan_of(store, config)
    items, old = _found(store, plan, choice)
    _refuse_places(out, config.data.folder, store)
    _refuse_mixture(out, kind)
    selection = Selection(store, items, choice, config.data.folder)
    target = Target(
        out=out,
        classes=selection.classes,
        images=images or wanted.images,
        names=tuple(item.row.path for item in selection.items),
        parts=PARTS[: len(choice.split)],
    )
    full = out.is_dir() and any(path.name != UNFINISHED for path in out.iterdir())
    write_classes(out, selection.classes)
    total = len(selection.items)
    said = wanted.write(
        track(_begun(selection, out, kind), "exporting", total, console=console, transient=True), target
    )
    (out / UNFINISHED).unlink(missing_ok=True)
    console.print(f"{so_many(total, 'labels')} and classes.txt in {out}", highlight=False)
    for line in said + [f"left out: {selection.told()}"] * bool(selection.left_out):
        console.print(line, highlight=False, markup=False)
    if selection.emptied:
        console.print(
            f"[yellow]{so_many(selection.emptied, 'labels')} with 255 everywhere[/]: no pixel of them reaches --confidence "
            f"{choice.confidence:g} (images in which a class of the label was found nowhere reach {config.fuse.cap:g} at most); take a lower one",
            highlight=False,
        )
    if full:
        console.print(
            f"[yellow]{out} was not empty[/]: labels of an earlier export may lie there under other names; "
            "export into an empty folder if that matters",
            highlight=False,
        )
    if earlier := sum(item.row.id in old and not selection.drawn(item) for item in selection.items):
        console.print(
            f"[yellow]{so_many(earlier, 'labels')} of an earlier run[/], before something changed: bluemask status {root}",
            highlight=False,
        )
    waiting = sum(row.status == "active" for row in plan.rows) - len(items)
    if waiting:
        missing = "a label" if choice.outdated else "an up-to-date label"
        console.print(f"[yellow]{so_many(waiting, 'images')} without {missing}[/]: bluemask status {root}")


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


def _begun(selection: Selection, out: Path, kind: str) -> Iterator[Sample]:
    """The samples; the folder is the format's from the first one on, and no sooner: until then all may be refused."""
    (out / UNFINISHED).write_text(
        "This export is under way, or was broken off: files are missing.\n", encoding="utf-8"
    )
    (out / MADE_AS).write_text(f"{kind}\n", encoding="utf-8")
    yield from selection.samples()


def _refuse_mixture(out: Path, kind: str) -> None:
    """Two formats in one folder would each be read with the other's files among its own."""
    try:
        before = (out / MADE_AS).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    if before != kind:
        raise WrongInputError(f"{out} holds an export as {before!r}; export {kind!r} into another folder")


# -- back -------------------------------------------------------------------------------------------------


def import_masks(root: Path, file: Path, console: Console, *, kind: str, accept: bool) -> None:
    """Take corrected masks back: where one differs from the label that counts, it takes its place.

    kind: of READERS; accept: whether a mask that differs in nothing counts as an accepted label. Nothing is kept
    unless every mask fits. Raises ExportError that names the first that does not.
    """
    read = reader_of(kind)
    store = Store.existing(root)
    items = {_stem(item.row.path): item for item in finished(store, stored_config(store))}
    classes, reviews = tuple(store.classes()), Reviews(store)
    found = [(_find(items, name, file), mask) for name, mask in read(file, classes)]
    checked = [(item, _fitting(item, mask, file)) for item, mask in found]
    counts: Counter[str] = Counter()
    for item, mask in track(checked, "importing", console=console, transient=True):
        counts[_take(reviews, item, mask, f"import {kind}", classes, accept)] += 1
    words = ", ".join(f"{n} {what}" for what, n in counts.items()) or "it holds no mask"
    console.print(f"{file}: {words}", highlight=False, markup=False)


def _take(
    reviews: Reviews, item: Labelled, mask: np.ndarray, source: str, classes: tuple[str, ...], accept: bool
) -> str:
    sha256 = item.row.sha256
    before = reviews.history(sha256).last
    if np.array_equal(mask, item.label(reviews)):
        if accept:
            judged = label_digest(mask)
            reviews.add(
                sha256, before.model_copy(update={"verdict": "accept", "judged": judged, "source": source})
            )
        return "unchanged, accepted" if accept else "unchanged"
    digest = reviews.keep_mask(sha256, mask)
    reviews.add(
        sha256,
        Review(
            verdict="accept", judged=digest, note=before.note, mask=digest, classes=classes, source=source
        ),
    )
    return "corrected"


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _find(items: dict[str, Labelled], name: str, file: Path) -> Labelled:
    """The image of a path without ending: the same path, else the only one that ends so."""
    if name in items:
        return items[name]
    last = name.rsplit("/", 1)[-1]  # an uploaded file has lost its folders
    matching = (
        [key for key in items if key.endswith("/" + name)]
        or [key for key in items if key.replace("/", "__") == name]
        or [key for key in items if key.rsplit("/", 1)[-1] == last]
    )
    if len(matching) != 1:
        raise ExportError(f"{file}: {name!r} is the name of {len(matching)} finished images, expected one")
    return items[matching[0]]


def _fitting(item: Labelled, mask: np.ndarray | None, file: Path) -> np.ndarray:
    size = (item.row.height, item.row.width)
    if mask is None:
        return np.zeros(size, np.uint8)
    if mask.shape != size:
        raise ExportError(
            f"{file}: the mask of {item.row.path} is {mask.shape[1]} × {mask.shape[0]} pixels, "
            f"the image {size[1]} × {size[0]}"
        )
    return mask
