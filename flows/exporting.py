"""Labels out of a store in any format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from flows.figures import contradicted_images
from flows.outputs import fresh_labels, outdated_labels, read_before
from flows.plan import Plan
from flows.selection import MAPS, PARTS, Choice, Selection
from flows.summary import plan_of, stored_config
from flows.sweeping import sweep
from storage.store import Store, StoreError, WrongInputError
from tasks.export import Format, Images, Sample, Target, write_classes
from tasks.formats import format_of
from tasks.reading import Labelled
from tasks.written import Account, File, accounted, known_files, own
from viewer.words import so_many

MADE_AS = ".bluemask-format"
"""File in an export's folder that holds the name of its format."""
UNFINISHED = "UNFINISHED.txt"
"""In a folder as long as an export into it is under way, and after one that was broken off."""


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

    kind: of FORMATS; images: None as the format has it. Raises ExportError or StoreError; also where some label could not be
    read: the others are written then.
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
    waiting = sum(row.status == "active" for row in plan.rows) - len(items)
    out.mkdir(parents=True, exist_ok=True)
    with accounted(out, str(store.root.resolve()) if store.local else store.name) as account:
        write_classes(out, selection.classes)
        begun = _begun(selection, account, wanted, target, choice)
        said = wanted.write(track(begun, "exporting", total, console=console, transient=True), target)
    swept = sweep(before, account, selection, plan.rows, target.images)
    if not selection.lost:
        (out / UNFINISHED).unlink(missing_ok=True)
    selection.items = [item for item in selection.items if item.row.path in selection.paths]
    console.print(f"{so_many(len(selection.items), 'labels')} and classes.txt in {out}", highlight=False)
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
    for line in swept + _doubts(root, selection, config.fuse.cap, old, waiting) + _suspects(store, selection):
        console.print(line, highlight=False)
    _refuse_losses(out, selection, before)


def _refuse_losses(out: Path, selection: Selection, before: dict[str, File]) -> None:
    """End as a failure where labels could not be read, though the rest is there: whoever trains on it is to know."""
    if not selection.lost:
        return
    lost = selection.lost
    old = lost.keys() & {file.image for file in before.values()}
    earlier = dict.fromkeys(old, " (what lies there is of an earlier export)")
    listed = "".join(f"{path}{earlier.get(path, '')}: {why}\n" for path, why in sorted(lost.items()))
    own(out / UNFINISHED).write_text(f"Not written, as they could not be read:\n{listed}", encoding="utf-8")
    path, why = min(lost.items())
    stays = f", where an earlier export's stays of {len(old)}" if old else ""
    more = "" if len(lost) == 1 else f" ({UNFINISHED} there names all {len(lost)})"
    raise StoreError(
        f"{so_many(len(lost), 'labels')} could not be read, and not written to {out}{stays}: {path}: {why}{more}"
    )


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
        more = not choice.outdated and any(read_before(store, plan, block) for block in plan.blocks)
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


def _begun(
    selection: Selection, account: Account, wanted: Format, target: Target, choice: Choice
) -> Iterator[Sample]:
    """The samples; the folder is the format's from the first one on, and no sooner: until then all may be refused."""
    out = account.out
    own(out / UNFINISHED).write_text(
        "This export is under way, or was broken off: files are missing.\n", encoding="utf-8"
    )
    own(out / MADE_AS).write_text(f"{choice.made_as(wanted.name)}\n", encoding="utf-8")
    for item, sample in selection.samples(wanted, target.images):
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
