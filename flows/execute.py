"""One stage over some blocks: read through receipts, compute, write once, commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from flows.config import Config
from flows.memory import halving
from flows.networks import load_model, precision_of
from flows.outcome import LISTED
from flows.plan import Plan, deferred, digest_of, facts, fingerprint, section, unkept
from storage.arrays import content_digest
from storage.catalog import ImageRow
from storage.documents import file_digest
from storage.lock import StoreLockedError
from storage.marks import AnnotationIndex
from storage.objects import StoreUnwritableError
from storage.pixels import read_pixels, to_rgb8
from storage.receipts import Receipt
from storage.store import Store, StoreError
from storage.streams import Streamed
from tasks.ingest import Ingested, ingest, unread
from tasks.registry import writer
from tasks.stage import Stage, listening

SLOT = threading.Lock()
"""The accelerator, or the cores: one network at a time. Others read and write meanwhile."""


class BlockError(RuntimeError):
    """A stage failed on a block; the message names both."""


STOPS = (StoreUnwritableError, StoreLockedError)
"""After these no other block would go better: the run ends."""


class Job:
    """All that a worker needs to do any block: handed to it once."""

    def __init__(self, store: Store, config: Config, plan: Plan, advance: Callable[[str, int], None]) -> None:
        """advance: called with a stage's name and the number of images that are done since; below 0 where they are not."""
        self.store, self.config, self.plan, self.advance = store, config, plan, advance
        self._told: dict[tuple[str, str], int] = {}
        self.batches: dict[str, int] = {}
        """Batch sizes that had to be lowered, by stage."""

    def part(self, blocks: list[str]) -> Job:
        """The same job for some blocks alone, to be sent to another process."""
        return Job(self.store, self.config, self.plan.part(blocks), _unseen)

    def run(self, stage: Stage, block: str) -> Receipt:
        """Do one block of a stage, unless its receipt says that it is done.

        Raises BlockError with stage, block and cause, and one of STOPS where no block can go on.
        """
        if not self.plan.fresh(stage, block) or self.plan.again(stage, block):
            try:
                with listening(partial(self._hear, stage, block)):
                    self.plan.update(self._do(stage, block))
            except STOPS:
                self._tell(stage, block, 0)
                raise
            except Exception as error:
                self._tell(stage, block, 0)
                raise BlockError(f"stage {stage.name}, block {block}: {error}") from error
            self._tell(stage, block, len(self.plan.blocks[block]))
            del self._told[stage.name, block]
        return self.plan.receipts[stage.name][block]

    def _hear(self, stage: Stage, block: str, images: int) -> None:
        """So many images of a block are done, of all passes that it takes: what is begun anew is not told twice.

        The last one is done when the block is committed.
        """
        images = min(images, len(self.plan.blocks[block]) - 1)
        if images > self._told.get((stage.name, block), 0):
            self._tell(stage, block, images)

    def _tell(self, stage: Stage, block: str, images: int) -> None:
        since = images - self._told.get((stage.name, block), 0)
        self._told[stage.name, block] = images
        if since:
            self.advance(stage.name, since)

    def _do(self, stage: Stage, block: str) -> Receipt:
        """Do a block, or take back what was made from just the same before."""
        reasons = self.plan.reasons(stage, block)
        if reasons is not None and (stage.name, block) not in self.plan.forced:
            kept = self.store.restore(stage.name, block, fingerprint(reasons))
            if kept is not None:
                return kept
        return self._made(stage, block)[0]

    def _made(self, stage: Stage, block: str) -> tuple[Receipt, dict[str, np.ndarray]]:
        """Do a stage and commit it; its receipt and its arrays, those that are not kept among them."""
        started = time.perf_counter()
        held = self._held(stage, block)
        reasons = self.plan.reasons(stage, block)
        if reasons is None:
            raise BlockError("what it reads is not there yet")
        if stage.name == "ingest":
            arrays, failed = self._ingest(block)
            self._refuse_loss(block, failed, reasons)
            live = {row.id for row in self.plan.blocks[block] if row.status == "active"}
            if len(live) > 1 and live <= unread(failed):  # the share, rather than a file
                raise BlockError("none of its images could be had: " + next(iter(failed.values())))
        else:
            arrays, failed = self._compute(stage, block, held), {}
            held.clear()  # not wanted any more while the arrays are written
        receipt = self.store.commit(
            stage.name,
            block,
            fingerprint(reasons),
            stage.writes,
            arrays,
            reasons=reasons,
            attributes=self._attributes(stage, block),
            failed=failed,
            seconds=time.perf_counter() - started,
            dropped=unkept(self.config, stage),
        )
        return receipt, arrays

    def _held(self, stage: Stage, block: str) -> dict[str, np.ndarray]:
        """What a stage reads and nobody keeps: made here, for this one pass, and never on disk.

        Their values are those that a kept copy would have. Where they are not those of the receipt (another
        machine rounds otherwise), a new receipt says so, before anything is made of them.
        """
        held: dict[str, np.ndarray] = {}
        for source in dict.fromkeys(map(writer, stage.inputs)):
            stale = deferred(self.config, source) and not self.plan.fresh(source, block)
            receipt = self.plan.receipts[source.name].get(block)
            wanted = [name for name in stage.inputs if writer(name) is source]
            if stale or (receipt is not None and set(wanted) & set(receipt.dropped)):
                # a network's pass is heard as the stage's own: it takes the time
                with listening(_unheard) if source.model is None else nullcontext():
                    arrays = None if stale else self._again(source, block)
                    if arrays is None:
                        receipt, arrays = self._made(source, block)
                        self.plan.update(receipt)
                held |= {name: arrays[name] for name in wanted}
        return held

    def _again(self, source: Stage, block: str) -> dict[str, np.ndarray] | None:
        """A stage's arrays made anew, if they are to be dropped again and are what its receipt says."""
        receipt = self.plan.receipts[source.name][block]
        if set(receipt.dropped) != set(unkept(self.config, source)):
            return None
        arrays = self._compute(source, block, self._held(source, block))
        same = all(content_digest(arrays[name]) == receipt.arrays[name].digest for name in receipt.dropped)
        return arrays if same else None

    def _refuse_loss(self, block: str, failed: Mapping[int, str], reasons: Mapping[str, str]) -> None:
        """A block that is being repaired stays as it is where an image cannot be had any more: its label is sound.

        Nor where its marks cannot, as long as they are said to be those that it was made from.
        """
        before = self.store.receipt("ingest", block)
        known = {} if before is None else before.failed
        same = before is not None and before.reasons["annotations"] == reasons["annotations"]
        missing = unread(failed) - unread(known)
        if same:
            missing |= failed.keys() - known.keys()
        if ("ingest", block) in self.plan.forced and missing:
            raise BlockError("; ".join(failed[i] for i in sorted(missing)))

    def _attributes(self, stage: Stage, block: str) -> dict[str, Any]:
        """What a reader of the group alone must know: which images, which classes."""
        images = [row.path for row in self.plan.blocks[block]]
        return {"stage": stage.name, "block": block, "images": images, "classes": self.plan.classes}

    def _compute(self, stage: Stage, block: str, held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        keywords: dict[str, Any] = {
            name: held[name] if name in held else self._read(stage, name, block) for name in stage.inputs
        }
        keywords |= section(self.config, stage.config) | facts(self.config, stage.facts)
        if stage.model is None:
            return self._call(stage, keywords)
        with SLOT:
            model = load_model(self.store, self.config, stage.model)
            return self._call(stage, keywords | {"model": model, "precision": precision_of(self.config)})

    def _call(self, stage: Stage, keywords: dict[str, Any]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            result: dict[str, np.ndarray] = halving(stage.name, stage.function, keywords, self.batches)
        return result

    def _read(self, stage: Stage, name: str, block: str) -> np.ndarray | Streamed:
        receipt = self.plan.receipts[writer(name).name][block]
        return (
            Streamed(self.store, receipt, name) if name in stage.streamed else self.store.read(receipt, name)
        )

    # -- ingest -------------------------------------------------------------------------------------

    def _ingest(self, block: str) -> Ingested:
        rows = self.plan.blocks[block]
        before = self.store.receipt("ingest", block)
        lenient = frozenset(row.id for row in rows if row.status != "active")
        return ingest(
            rows=rows,
            classes=self.plan.classes,
            pixels=_Pixels(self, rows, before),
            marks=self._marks,
            lenient=lenient,
        )

    def _marks(self, row: ImageRow, shape: tuple[int, int]) -> np.ndarray:
        return self._annotations.label_map(row.path, shape, self.plan.classes, row.labels)

    def misplaced(self) -> list[str]:
        """Marks that do not fit their image, a sentence each, of the images that `ingest` is to read.

        It finds them, too, and gives such an image no label; here they are known before the long work.
        """
        due = [row for block in self.plan.todo(writer("annotation")) for row in self.plan.blocks[block]]
        marked = [row for row in due if row.annotation and row.status == "active"]
        with ThreadPoolExecutor(max_workers=max(2, self.config.workers)) as pool:
            found = [why for why in pool.map(self._misplaced, marked) if why]
        more = [f"and {len(found) - LISTED} more of such marks"] * (len(found) > LISTED)
        return found[:LISTED] + more

    def _misplaced(self, row: ImageRow) -> str:
        try:
            self._marks(row, (row.height, row.width))
        except (OSError, ValueError) as error:
            return f"{error}; until then the image gets no label"
        return ""

    @cached_property
    def _annotations(self) -> AnnotationIndex:
        data = self.config.data
        return AnnotationIndex(data.folder, data.annotations, data.points)


def _unheard(images: int) -> None:
    """Of a pass that is soon over."""


def _unseen(stage: str, images: int) -> None:
    """Progress in another process shows in the receipts."""


class _Pixels:
    """An image's pixels: from the block's last group where that holds the same content, else from the file.

    Thus a removed file does not take its neighbours' arrays with it, and a new label decodes nothing.
    """

    def __init__(self, job: Job, rows: list[ImageRow], before: Receipt | None) -> None:
        self.job = job
        self.rank = {row.id: n for n, row in enumerate(rows)}
        same = before is not None and before.reasons.get("pixels") == digest_of(
            [[row.sha256 for row in rows], job.plan.value_range]
        )
        self.before = before if same else None

    def __call__(self, row: ImageRow) -> np.ndarray:
        """(y, x, channel) uint8 RGB. Raises OSError or ValueError where the file cannot be read."""
        if self.before is not None and row.id not in unread(self.before.failed):
            try:
                return self._kept(self.before, self.rank[row.id])
            except StoreError:
                pass  # damaged: the file itself is the better source
        return self._file(row)

    def _kept(self, receipt: Receipt, n: int) -> np.ndarray:
        height, width = self.job.store.read_image(receipt, "size", n)
        return self.job.store.read_image(receipt, "image", n)[:height, :width]

    def _file(self, row: ImageRow) -> np.ndarray:
        path = Path(self.job.config.data.folder) / row.path
        most = int(self.job.config.data.max_megapixels * 1e6)
        before = file_digest(path)
        image = to_rgb8(read_pixels(path, max_pixels=most), self.job.plan.value_range)
        if {before, file_digest(path)} != {row.sha256}:
            raise ValueError(f"{row.path}: changed while the run was on its way; run again")
        return image
