"""What comes out of a store: scores, and the picture of an image's way through it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from flows.config import Config
from flows.plan import Plan
from flows.summary import plan_of, stored_config
from storage.pixels import read_label_map
from storage.receipts import Receipt
from storage.store import Store, StoreError, WrongInputError
from tasks.cam import p1_hard
from tasks.ensemble import p2_hard
from tasks.evaluate import Confusion, Match, find_masks, metrics, otsu_label_map
from tasks.reading import Labelled
from tasks.registry import stage
from viewer.strip import StripRow, save, strip
from viewer.words import so_many


def finished(store: Store, config: Config) -> list[Labelled]:
    """Every image whose label map P is fresh, in the order of paths. Raises StoreError where none is."""
    found = fresh_labels(store, plan_of(store, config))
    if not found:
        raise StoreError(
            f"{store.root} holds no up-to-date label (`bluemask status` says why); `bluemask run CONFIG` makes them"
        )
    return found


def fresh_labels(store: Store, plan: Plan) -> list[Labelled]:
    """Every image whose label map P is fresh, in the order of paths."""
    fresh = (block for block in plan.blocks if plan.fresh(stage("fuse"), block))
    found = (item for block in fresh for _, item in _labelled(store, plan, block))
    return sorted(found, key=lambda item: item.row.path)


def outdated_labels(store: Store, plan: Plan) -> list[Labelled]:
    """Images whose label map P is of an earlier config, network or version, but of the very same pixels and classes.

    So last night's labels are at hand while a run makes new ones, or after one that was broken off. In the order of
    paths. Raises StoreError where an array is damaged.
    """
    found = []
    for block in plan.blocks:
        read = None if plan.fresh(stage("fuse"), block) else read_before(store, plan, block)
        if read is not None:
            pixels, slots = (store.read(read, name) for name in ("sha256", "slot_class"))
            found += [
                item
                for n, item in _labelled(store, plan, block)
                if _of_these_pixels(item, pixels[n], slots[n], plan.classes)
            ]
    return sorted(found, key=lambda item: item.row.path)


def _labelled(store: Store, plan: Plan, block: str) -> Iterator[tuple[int, Labelled]]:
    failed = plan.receipts["ingest"][block].failed
    for place, row in enumerate(plan.blocks[block]):
        if row.status == "active" and row.id not in failed:
            yield place, Labelled(store, row, place)


def read_before(store: Store, plan: Plan, block: str) -> Receipt | None:
    """What `ingest` had read of the images and classes when a block's P was made, last or before; None where that is not there.

    Nor where somebody found that P damaged.
    """
    made = plan.receipts["fuse"].get(block)
    if made is None or ("fuse", block) in plan.damaged or not plan.intact(made):
        return None
    for read in (plan.receipts["ingest"].get(block), store.previous("ingest", block)):
        if read is not None and plan.intact(read):
            same = (made.reasons.get(f"array {n}") == read.arrays[n].digest for n in ("sha256", "slot_class"))
            if all(same):
                return read
    return None


def _of_these_pixels(item: Labelled, sha256: np.ndarray, slots: np.ndarray, classes: Sequence[str]) -> bool:
    """Whether what `ingest` had read is an image's present content and label.

    sha256: (byte=32,) uint8; slots: (slot,) uint8, 0 unused.
    """
    named = sorted(classes.index(name) + 1 for name in item.row.labels)
    return sha256.tobytes().hex() == item.row.sha256 and sorted(slots[slots > 0]) == named


# -- scores -----------------------------------------------------------------------------------------------


def _versions(config: Config) -> dict[str, Callable[[Labelled], np.ndarray]]:
    """How each scored label map is had from an image's arrays; the last two need no network."""

    def present(item: Labelled) -> np.ndarray:
        return item.array("slot_class")

    return {
        "P1": lambda item: item.array("p1"),
        "P1°": lambda item: p1_hard(item.array("cam"), present(item), config.cam.low, config.cam.high),
        "P2": lambda item: item.array("p2"),
        "P2°": lambda item: p2_hard(item.array("mean"), present(item)),
        "P": lambda item: item.array("p"),
        "Otsu": lambda item: otsu_label_map(item.array("image"), present(item)),
        "all 0": lambda item: np.zeros((item.row.height, item.row.width), np.uint8),
    }


class Scores(NamedTuple):
    """Metrics of every version of the labels, by version, and what about the masks looks wrong, a sentence each."""

    versions: dict[str, dict[str, object]]
    notes: list[str]


def scores(root: Path, masks: Path, console: Console) -> Scores:
    """Metrics of every version of the labels of a store.

    masks: ground truth, a label PNG an image. Raises ValueError where a mask does not fit.
    """
    store = Store.existing(root)
    config = stored_config(store)
    items = finished(store, config)
    truth = find_masks(masks, [item.row.path for item in items])
    found = _versions(config)
    tables, classes = {name: Confusion() for name in found}, store.classes()
    match = Match(classes)
    for item in track(items, "scoring", console=console, transient=True):
        mask = read_label_map(truth[item.row.path])
        match.add(mask, item.row.labels, truth[item.row.path])
        for name, version in found.items():
            tables[name].add(mask, version(item), item.row.path)
    return Scores({name: metrics(table, classes) for name, table in tables.items()}, match.notes())


def print_scores(root: Path, masks: Path, console: Console, *, as_json: bool = False) -> None:
    """Print what `bluemask evaluate` prints."""
    loud = Console(stderr=True)
    found, notes = scores(root, masks, loud)
    for note in notes:
        loud.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    if as_json:
        console.print_json(json.dumps(found, ensure_ascii=False))
        return
    compared = so_many(cast(int, found["P"]["images"]), "images")
    table = Table("%", title=f"{root} against {masks}: {compared}", title_justify="left")
    for version in found:
        table.add_column(version, justify="right", no_wrap=True)
    heads = {"mIoU": "mIoU", "mIoU_foreground": "mIoU, defects", "ACC": "ACC", "ignored": "left open"}
    for key, title in heads.items():
        table.add_row(title, *(_percent(values[key]) for values in found.values()))
    table.add_section()
    ious: list[dict[str, float]] = [values["IoU"] for values in found.values()]  # type: ignore[misc]
    for name in dict.fromkeys(name for iou in ious for name in iou):
        table.add_row(f"IoU {name}", *(_percent(iou.get(name)) for iou in ious))
    console.print(table)
    console.print(
        "[dim]P1: by the CAM; P2: by SAM's views; P: both fused, the label that is exported; all 0: no defect anywhere. "
        "A pixel left open counts as wrong; P1° and P2° leave none open. "
        "Otsu: one threshold an image, its smaller side is the defect.[/]"
    )


def _percent(value: object) -> str:
    return f"{100 * value:.2f}" if isinstance(value, float) else "–"


# -- pictures ---------------------------------------------------------------------------------------------


def show_images(root: Path, names: Sequence[str], out: Path, masks: Path | None = None) -> None:
    """Draw the strips of some images, one below the other, into a PNG.

    names: paths relative to the image folder. Raises WrongInputError for an image that is not finished.
    """
    store = Store.existing(root)
    items = {item.row.path: item for item in finished(store, stored_config(store))}
    for name in names:
        if name not in items:
            raise WrongInputError(
                f"{name!r} is no finished image of {root}; {_hint(store, name, list(items))}"
            )
    truth = find_masks(masks, names) if masks else {}
    rows = [_strip_row(store, items[name], truth.get(name)) for name in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    save(strip(rows, store.classes()), out)


def _hint(store: Store, name: str, known: Sequence[str]) -> str:
    """What to do about the name of an image that has no label."""
    row = next((row for row in plan_of(store, stored_config(store)).rows if row.path == name), None)
    if row is not None and row.status == "quarantined":
        return f"it could not be read ({row.why}): replace the file, and run again"
    if row is not None:
        return f"`bluemask status {store.root}` says what is not up to date"
    last = PurePosixPath(name).stem.casefold()
    close = [path for path in known if PurePosixPath(path).stem.casefold() == last]
    close += get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(close[:3]))}?"
    return f"its paths look like {', '.join(known[:3])}"


def _strip_row(store: Store, item: Labelled, truth: Path | None) -> StripRow:
    names = (
        "image",
        "view",
        "mask",
        "mean",
        "entropy",
        "cam",
        "point",
        "slot_class",
        "p1",
        "p2",
        "p",
        "confidence",
    )
    arrays = {name: item.array(name) for name in names}
    mask = None if truth is None else read_label_map(truth)
    return StripRow(name=item.row.path, labels=item.row.labels, truth=mask, **arrays)
