"""Which of a store's images are exported, and with which label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.reviews import Review, Reviews, label_digest
from storage.store import Store, StoreError
from tasks.export import UNKNOWN, ExportError, Format, Images, Sample
from tasks.reading import Labelled

PARTS = ("train", "val", "test")
MAPS = {"p": "P", "p1": "P1", "p2": "P2"}
"""Label maps that can be exported, and what they are called."""
UNREADABLE = "that could not be read"
"""Why an image is left out whose label, or what goes with it, is damaged."""


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
        self.lost: dict[str, str] = {}
        """Paths of images whose label, or what goes with it, could not be read, and why."""
        self.emptied = 0
        """Labels of which the confidence asked for left nothing, as far as they were given out."""
        self.items = [item for item in items if self._wanted(item)]
        self.paths = {item.row.path for item in self.items}
        if not self.items and self.lost:
            path, why = min(self.lost.items())
            raise StoreError(f"{path}: {why}")
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
            last = self.reviews.history(item.row.sha256).last
        except StoreError:
            return "with a damaged review (`bluemask verify STORE --repair`)"
        try:
            verdict = self._verdict(item, last)
        except StoreError as error:
            self.lost[item.row.path] = str(error)
            return UNREADABLE
        if verdict in ("reject", "correct"):
            self.refused.add(item.row.path)
            return {"reject": "rejected", "correct": "in need of correction"}[verdict]
        return "not reviewed" if self.choice.reviewed and verdict is None else ""

    def _verdict(self, item: Labelled, last: Review) -> str | None:
        """What was said of the label that counts now; a verdict on another label is none."""
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

    def samples(self, wanted: Format, images: Images) -> Iterator[tuple[Labelled, Sample]]:
        """One after the other; what cannot be read is left out and told. images: as of `Target`."""
        for item in self.items:
            try:
                sample = self._sample(item, wanted, images)
            except StoreError as error:
                self.lost[item.row.path] = str(error)
                self.left_out[UNREADABLE] += 1
                self.paths.remove(item.row.path)
            else:
                yield item, sample

    def _sample(self, item: Labelled, wanted: Format, images: Images) -> Sample:
        file = self.images / item.row.path
        names = [name for name in wanted.arrays if name != "confidence" or self.choice.confident]
        return Sample(
            name=item.row.path,
            file=file,
            label=self._label(item),
            part=part_of(item.row.sha256, self.choice.split),
            arrays={name: item.array(name) for name in names},
            image=None if images == "none" or wanted.takes(file) else item.array("image"),
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
