"""What the pages are made of: one image's receipts, arrays and reviews, read together so that nothing is torn."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.catalog import ImageRow, Status
from storage.pixels import read_label_map
from storage.receipts import Receipt
from storage.reviews import History, Review, Reviews, label_digest
from storage.store import Store, StoreError
from tasks.reading import Labelled, cut
from tasks.registry import stages
from tasks.views import View
from viewer import panels
from viewer.index import Index
from viewer.refresh import Refresher, review_state
from viewer.trainings import PICTURES, TRAININGS

Segment = Callable[[Labelled, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Clicked points (point, 3) of an image to masks (choice, y, x) bool and predicted IoU."""
MOST_SCORES = 5
"""Classes whose score a page shows, besides those of the label."""
AT_ONCE = 2
"""Panels that are drawn at the same time: each may hold a large image."""


class Torn(StoreError):
    """The image's arrays are no longer those that the page was made of."""


class Missing(StoreError):
    """There is no such image, or not that part of it."""


@dataclass(frozen=True)
class Opened:
    """One image with the receipts of one moment.

    row: of the index; item: its arrays; receipts: by stage; version: digest of the receipts' fingerprints.
    """

    row: dict[str, Any]
    item: Labelled
    receipts: dict[str, Receipt]
    version: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.item.row.height, self.item.row.width


class Backend:
    """Reads for the server; made in the background, as what it imports takes seconds."""

    def __init__(
        self,
        store: Store,
        index: Index,
        refresher: Refresher,
        segment: Segment | None = None,
        truth: Callable[[str], Path | None] | None = None,
    ) -> None:
        """segment: asks SAM; truth: the ground-truth file of an image's path, where a folder was given."""
        self.store, self.index, self.refresher, self.segment = store, index, refresher, segment
        self.reviews = Reviews(store)
        self._truth = truth or (lambda _: None)
        self._drawing = threading.Semaphore(AT_ONCE)
        self._warming: threading.Thread | None = None

    # -- images ---------------------------------------------------------------------------------------

    def open(self, image: int, version: str | None = None, only: Collection[str] | None = None) -> Opened:
        """An image by its id.

        version: the one that the page was made of, None for the present one; only: stages whose receipts are
        read, None all of them, without which there is no version.

        Raises Missing where there is no such image, Torn where a run has made it anew since.
        """
        row = self.index.image(image)
        if row is None:
            raise Missing(f"no image has the number {image}")
        found = {
            stage.name: receipt
            for stage in stages()
            if row["block"]
            and (only is None or stage.name in only)
            and (receipt := self.store.receipt(stage.name, row["block"]))
        }
        marks = " ".join(receipt.fingerprint for receipt in found.values())
        now = hashlib.sha256(marks.encode()).hexdigest()[:16]
        if version is not None and version != now:
            raise Torn(f"{row['path']} was made anew while you looked at it; load the page again")
        return Opened(row, Labelled(self.store, _catalog_row(row), row["place"], found), found, now)

    def thumbnail(self, image: int) -> bytes:
        """A small JPEG of an image with the outline of the label that counts."""
        return self.thumbnail_of(image)[0]

    def thumbnail_of(self, image: int) -> tuple[bytes, bool]:
        """The thumbnail, and whether its label could be read: only then it may be kept by a browser."""
        opened = self.open(image, only=("ingest", "fuse"))
        if "ingest" not in opened.receipts:
            raise Missing(f"{opened.row['path']} has not been read yet")
        label, damaged = None, False
        if opened.row["corrected"] or "fuse" in opened.receipts:
            try:
                label = opened.item.label(self.reviews)
            except StoreError:  # of review or label: the image's own page says which
                damaged = True
        return panels.thumbnail(opened.item.array("image"), label, damaged=damaged), not damaged

    def panel(self, image: int, name: str, slot: int, version: str) -> bytes:
        """One panel as PNG. Raises Missing for a name or slot that it does not have, Torn as `open` does."""
        opened = self.open(image, version)
        try:
            with self._drawing:
                if name.startswith("under-"):
                    picture = panels.view_image(opened.item, int(name.removeprefix("under-")))
                else:
                    picture = panels.draw_panel(
                        name, opened.item, slot, lambda which: self._extra(opened, which)
                    )
                smooth = name.startswith(("image", "prompts", "under"))
                return panels.png(panels.within(picture, smooth=smooth))
        except (KeyError, IndexError, ValueError) as error:
            raise Missing(f"{opened.row['path']} has no panel {name!r} of slot {slot}") from error

    def _extra(self, opened: Opened, name: str) -> np.ndarray | None:
        if name == "correction":
            return self.reviews.mask(opened.row["sha256"])
        if name == "before":
            return self.before(opened)
        path = self._truth(opened.row["path"]) if name == "truth" else None
        return None if path is None else read_label_map(path)

    def training(self, folder: str, name: str) -> bytes:
        """A picture of a training. folder, name: of `viewer.trainings.Training`. Raises Missing where there is none."""
        path = self.store.root / TRAININGS / folder / f"{name}.png"
        if name not in PICTURES or not path.is_file():
            raise Missing(f"{folder} has left no {name}.png")
        return path.read_bytes()

    def before(self, opened: Opened) -> np.ndarray | None:
        """P as it was before the present receipt; None where there was none, or it is no longer kept."""
        previous = self.store.previous("fuse", opened.row["block"])
        now = opened.receipts.get("fuse")
        if previous is None or now is None or previous.group == now.group:
            return None
        try:
            return cut("p", self.store.read_image(previous, "p", opened.row["place"]), *opened.size)
        except StoreError:
            return None

    def values(self, image: int, slot: int, x: int, y: int) -> dict[str, Any]:
        """What the arrays hold at one pixel. Raises Missing outside the image."""
        opened = self.open(image)
        height, width = opened.size
        if not (0 <= x < width and 0 <= y < height):
            raise Missing(f"({x}, {y}) lies outside {width} × {height} pixels")
        try:
            found = panels.values_at(opened.item, slot, x, y)
        except IndexError as error:
            raise Missing(f"{opened.row['path']} has no slot {slot}") from error
        mask = self.reviews.mask(opened.row["sha256"])
        return found | ({} if mask is None else {"correction": int(mask[y, x])})

    @staticmethod
    def _asked(opened: Opened) -> bool:
        """Whether the embedded start was asked about an image; nobody was in a store of before, or by a config without it."""
        try:
            return bool(opened.item.array("objectness").any())
        except StoreError:
            return False

    # -- a page's data --------------------------------------------------------------------------------

    def page(self, image: int) -> dict[str, Any]:
        """All that the image page shows, but for the pixels."""
        opened = self.open(image)
        ready = "fuse" in opened.receipts and "ensemble" in opened.receipts
        history = self.reviews.history(opened.row["sha256"])
        found: dict[str, Any] = {
            "id": image,
            "version": opened.version,
            "width": opened.size[1],
            "height": opened.size[0],
            "ready": ready,
            "read": "ingest" in opened.receipts and image not in opened.receipts["ingest"].failed,
            "review": self.review_of(opened, history),
            "provenance": [_provenance(receipt, opened.row) for receipt in opened.receipts.values()],
        }
        return found | (self._method(opened, history) if ready else {"panels": [], "slots": [], "views": []})

    def _method(self, opened: Opened, history: History) -> dict[str, Any]:
        views = [View.of(row) for row in opened.item.array("view")]
        slot_class = opened.item.array("slot_class")
        slots = [{"slot": n, "class": int(k)} for n, k in enumerate(slot_class) if k] or [
            {"slot": 0, "class": 0}
        ]
        shown = panels.strip_panels(
            views,
            objects=self._asked(opened),
            before=self.before(opened) is not None,
            truth=self._truth(opened.row["path"]) is not None,
            correction=bool(history.last.mask),
        )
        return {
            "panels": [vars(panel) for panel in shown],
            "slots": slots,
            "scores": self._scores(opened, set(slot_class.tolist())),
            "views": [{"affine": panels.affine(v, opened.size), "grid": v.grid(opened.size)} for v in views],
            "prompts": {s["slot"]: panels.prompts_of(opened.item, s["slot"]) for s in slots},
            "marks": {s["slot"]: panels.marks_of(opened.item, s["slot"]) for s in slots},
        }

    def _scores(self, opened: Opened, named: set[int]) -> list[dict[str, Any]]:
        """The classifier's highest scores, and those of the classes that the label names, the highest first."""
        values = opened.item.array("score").tolist()
        ranked = sorted(range(1, len(values) + 1), key=lambda k: -values[k - 1])
        shown = [k for n, k in enumerate(ranked) if n < MOST_SCORES or k in named]
        classes = self.store.classes()
        return [
            {"class": k, "name": classes[k - 1], "score": values[k - 1], "named": k in named} for k in shown
        ]

    # -- reviews --------------------------------------------------------------------------------------

    def review_of(self, opened: Opened, history: History | None = None) -> dict[str, Any]:
        """An image's review as the page shows it."""
        history = self.reviews.history(opened.row["sha256"]) if history is None else history
        last, label = history.last, self._content(opened, history.last)
        return {
            "state": review_state(last.verdict, last.judged, label),
            "verdict": last.verdict,
            "note": last.note,
            "mask": last.mask,
            "made": last.made,
            "source": last.source,
            "count": history.count,
            "undo": bool(history.entries),
        }

    def _content(self, opened: Opened, review: Review) -> str:
        """Digest of the label that counts now; empty where there is none."""
        if review.mask:
            return review.mask
        return label_digest(opened.item.array("p")) if "fuse" in opened.receipts else ""

    def judge(self, image: int, verdict: str | None, note: str, expected: int) -> dict[str, Any]:
        """Record a verdict or note on the label that counts now. Raises ReviewConflict, or ValueError."""
        opened = self.open(image)
        last = self.reviews.history(opened.row["sha256"]).last
        review = Review.model_validate(
            {"verdict": verdict, "judged": self._content(opened, last), "note": note, "mask": last.mask,
             "classes": last.classes}
        )  # fmt: skip
        self.reviews.add(opened.row["sha256"], review, expected)
        return self._reviewed(image)

    def correct(self, image: int, mask: np.ndarray, note: str, expected: int) -> dict[str, Any]:
        """Keep a corrected mask, which is thereby accepted.

        mask: (y, x) uint8 of the image's extent. Raises ReviewConflict, or ValueError for a mask that holds what
        is no class.
        """
        opened = self.open(image)
        classes = self.store.classes()
        strange = sorted(set(np.unique(mask).tolist()) - {*range(len(classes) + 1), 255})
        if strange:
            raise ValueError(f"the mask holds {strange[0]}; expected 0 to {len(classes)}, or 255 for unknown")
        sha256 = opened.row["sha256"]
        digest = self.reviews.keep_mask(sha256, mask)
        review = Review(verdict="accept", judged=digest, note=note, mask=digest, classes=tuple(classes))
        self.reviews.add(sha256, review, expected)
        return self._reviewed(image)

    def undo(self, image: int, expected: int) -> dict[str, Any]:
        """Take an image's last review back."""
        self.reviews.undo(self.open(image).row["sha256"], expected)
        return self._reviewed(image)

    def _reviewed(self, image: int) -> dict[str, Any]:
        self.refresher.take_review(image)
        return self.review_of(self.open(image))

    def label(self, image: int) -> np.ndarray:
        """The label that counts, to begin a correction with: (y, x) uint8; all background where there is none."""
        opened = self.open(image)
        if self.segment is not None and self._warming is None:
            self._warming = threading.Thread(target=self._warm, args=(self.segment, opened), daemon=True)
            self._warming.start()
        if not opened.row["corrected"] and "fuse" not in opened.receipts:
            return np.zeros(opened.size, np.uint8)
        return opened.item.label(self.reviews)

    @staticmethod
    def _warm(segment: Segment, opened: Opened) -> None:
        """Load SAM while the editor is being looked at: the first click is then answered like any other."""
        height, width = opened.size
        with suppress(Exception):  # what is wrong is told to whoever clicks
            segment(opened.item, np.array([[width / 2, height / 2, 1]], np.float32))

    def click(self, image: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """SAM's masks for clicked points. Raises Missing where SAM cannot be asked."""
        if self.segment is None:
            raise Missing("SAM is not to be had here")
        opened = self.open(image)
        height, width = opened.size
        inside = (points[:, 0] >= 0) & (points[:, 0] < width) & (points[:, 1] >= 0) & (points[:, 1] < height)
        if not inside.all():
            raise ValueError(f"a point lies outside {width} × {height} pixels")
        return self.segment(opened.item, points)


def _catalog_row(row: dict[str, Any]) -> ImageRow:
    status: Status = "active" if row["active"] else row["state"]
    return ImageRow(
        id=row["id"], path=row["path"], sha256=row["sha256"], width=row["width"], height=row["height"],
        labels=tuple(row["labels"]), annotation="", block=row["block"], status=status, why=row["why"], bytes=0,
        modified=0,
    )  # fmt: skip


def _provenance(receipt: Receipt, row: dict[str, Any]) -> dict[str, Any]:
    """Where a stage's arrays of the image come from."""
    model = [value for name, value in receipt.reasons.items() if name.startswith("model ")]
    return {
        "stage": receipt.stage,
        "made": receipt.made,
        "seconds": receipt.seconds,
        "model": model[0] if model else "",
        "config": receipt.reasons.get("config", ""),
        "fingerprint": receipt.fingerprint,
        "receipt": f"receipts/{receipt.stage}/{receipt.block}.json",
        "group": f"{receipt.group} [{row['place']}]",
    }
