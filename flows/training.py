"""The two whole-dataset steps: when a network is trained, on what, and how it is promoted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows import durations, promotion
from flows.config import Config
from flows.networks import device_of, pinned, precision_of, promoted, settle
from flows.plan import Plan, digest_of, section
from flows.recipes import VERSIONS, recipe_digest, recorded, training_section, what_changed
from models.checkpoints import cache_folder, digest
from models.hardware import device_name, has_bfloat16_unit
from models.telling import Report
from storage.catalog import ImageRow, changed_share
from storage.reviews import Reviews
from storage.store import Store
from tasks.ingest import unusable
from tasks.registry import stages, writer
from tasks.stage import ModelKind
from tasks.train_fusion import READS as READS_OF_FUSION
from viewer.trainings import TRAININGS

if TYPE_CHECKING:
    from models.fusion import Precision

READS: dict[ModelKind, tuple[str, ...]] = {
    "vit": ("image", "objectness", "label"),
    "fusion": READS_OF_FUSION,
}
"""Arrays that each training reads."""


@dataclass(frozen=True)
class Decision:
    """Whether a network is to be trained, and why."""

    train: bool
    why: str
    counted: bool = False
    """Whether it hangs on how many of the images differ, which is known once what it learns from is there."""


class Records(Sequence[dict[str, np.ndarray]]):
    """A data set as training sees it: one dict an image, read when asked for, cut to true extents."""

    def __init__(
        self, store: Store, plan: Plan, kind: ModelKind, names: tuple[str, ...] | None = None
    ) -> None:
        """kind: the network that is to learn from it; names: of the arrays that are read, None those that it learns from."""
        self.store, self.plan, self.names = store, plan, READS[kind] if names is None else names
        self.places = [(block, n) for block, n, _ in members(plan, kind)]
        self.reviews = Reviews(store)
        self.corrected = corrections(store, kind)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """One image's arrays by name, without the image axis."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        block, row = self.places[index]
        height, width = self._part("size", block, row)
        record = {name: self._part(name, block, row) for name in self.names}
        found = {name: _cut(writer_dims(name), value, height, width) for name, value in record.items()}
        return found | self._correction(self.plan.blocks[block][row].sha256)

    def _correction(self, sha256: str) -> dict[str, np.ndarray]:
        """The mask that somebody drew in P's place, which the fusion network learns from."""
        mask = self.reviews.mask(sha256) if sha256 in self.corrected else None
        return {} if mask is None else {"correction": mask}

    def _part(self, name: str, block: str, row: int) -> np.ndarray:
        receipt = self.plan.receipts[writer(name).name][block]
        return self.store.read_image(receipt, name, row)


def writer_dims(name: str) -> tuple[str, ...]:
    """Axes of an array without the leading `image`."""
    return next(spec.dims[1:] for spec in writer(name).writes if spec.name == name)


def _cut(dims: tuple[str, ...], value: np.ndarray, height: int, width: int) -> np.ndarray:
    cuts = {"y": slice(height), "x": slice(width)}
    return value[tuple(cuts.get(dim, slice(None)) for dim in dims)]


def members(plan: Plan, kind: ModelKind, *, foreseen: bool = False) -> Iterator[tuple[str, int, ImageRow]]:
    """Block, place in it and catalog row of every image that a network may learn from.

    foreseen: as if all that it reads were made already.
    """
    for block, rows in plan.blocks.items():
        if foreseen or all(plan.fresh(writer(name), block) for name in READS[kind]):
            known = not foreseen or plan.fresh(stages()[0], block)
            failed = unusable(plan.receipts["ingest"][block].failed, kind) if known else set()
            yield from (
                (block, n, row)
                for n, row in enumerate(rows)
                if row.status == "active" and row.id not in failed
            )


def upstream(plan: Plan, kind: ModelKind) -> str:
    """Digest of all but the images that a training set depends on: versions, config and networks of its stages."""
    wanted, parts = {writer(name).name for name in READS[kind]}, []
    for stage in reversed(stages()):
        if stage.name in wanted:
            wanted |= {writer(name).name for name in stage.inputs}
            model = plan.network(stage.model) if stage.model else None
            parts.append([stage.name, stage.version, plan.recipe(stage), model])
    return digest_of([parts, plan.value_range])


def corrections(store: Store, kind: ModelKind) -> dict[str, str]:
    """Digests of the masks drawn by hand that a network learns from, by the images' sha256."""
    return Reviews(store).masks() if kind == "fusion" else {}


def data_record(store: Store, plan: Plan, kind: ModelKind, *, foreseen: bool = False) -> dict[str, str]:
    """One entry an image: what a network would be trained on now; foreseen: as of `members`."""
    basis, drawn = upstream(plan, kind), corrections(store, kind)
    marked = "annotation" in READS[kind]  # new marks teach only a network that sees them

    @cache  # many images say the same
    def entry(labels: tuple[str, ...], annotation: str, correction: str) -> str:
        return digest_of([labels, annotation, basis, *([correction] if correction else [])])

    return {
        row.sha256: entry(row.labels, row.annotation if marked else "", drawn.get(row.sha256, ""))
        for _, _, row in members(plan, kind, foreseen=foreseen)
    }


def decide(store: Store, config: Config, plan: Plan, kind: ModelKind, *, foreseen: bool = False) -> Decision:
    """Apply the retrain policy to what the promoted network was trained on; what was turned down stays so.

    foreseen: as of `members`: what the catalog shows beforehand of the decision that is to be made then.
    """
    decision = _policy(store, config, plan, kind, foreseen)
    if decision.train and members_ready(plan, kind, foreseen=foreseen):
        run = run_of(store, config, plan, kind, foreseen=foreseen)
        refused = promotion.declined(store, kind).get(run)
        if refused is not None and promoted(store, kind) is not None:
            return Decision(False, f"the network of just these images and this config was {refused}")
    return decision


def members_ready(plan: Plan, kind: ModelKind, *, foreseen: bool = False) -> bool:
    """Whether there is an image to learn from; foreseen: as of `members`."""
    return next(members(plan, kind, foreseen=foreseen), None) is not None


def run_of(store: Store, config: Config, plan: Plan, kind: ModelKind, *, foreseen: bool = False) -> str:
    """Digest of all that a training's result depends on; foreseen: as of `members`."""
    return digest_of([recipe_digest(config, kind), data_record(store, plan, kind, foreseen=foreseen)])


def _policy(store: Store, config: Config, plan: Plan, kind: ModelKind, foreseen: bool) -> Decision:
    if pinned(config, kind) is not None:
        return Decision(False, "the config pins its checkpoint")
    entry, data = promoted(store, kind), data_record(store, plan, kind, foreseen=foreseen)
    if not data:
        if entry is None and plan.todo(stages()[0]):
            return Decision(True, "there is no network yet")
        return Decision(False, "there is nothing to learn from yet")
    if entry is None:
        return Decision(True, "there is no network yet")
    if not foreseen and any(plan.failures[writer(name).name] & plan.blocks.keys() for name in READS[kind]):
        return Decision(False, "blocks that it learns from have failed")
    if why := promotion.outdated(entry, plan, kind):
        return Decision(True, why)
    share = changed_share(entry["data"], data)
    if config.retrain.policy == "never" or (share == 0 and entry["config"] == recipe_digest(config, kind)):
        return Decision(False, "nothing that it learned from has changed")
    if entry["config"] != recipe_digest(config, kind):
        return Decision(True, what_changed(entry.get("recipe"), config, kind))
    if config.retrain.policy == "always" or share > config.retrain.share:
        return Decision(True, f"{share:.0%} of its images changed", counted=True)
    return Decision(
        False, f"{share:.1%} of its images changed, no more than retrain.share = {config.retrain.share:.0%}"
    )


def training_precision(config: Config) -> Precision:
    """bfloat16 where the machine has a matrix unit for it, several times as quick; else float32."""
    return "bfloat16" if has_bfloat16_unit(device_of(config)) else "float32"


def train(store: Store, config: Config, plan: Plan, kind: ModelKind, report: Report) -> str:
    """Train a network on the store's images, and promote it if it is no worse. Returns what became of it.

    A killed training left its state in `training/`; the same command goes on from there. State of
    another data set or config is not taken up.
    """
    run = run_of(store, config, plan, kind)
    folder = folder_of(store) / f"{kind}-{run[:12]}"
    candidate = folder / "candidate.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    from tasks import train_fusion, train_vit

    settle(config)
    records, told = Records(store, plan, kind), durations.Stopwatch(report)
    step = train_vit.train if kind == "vit" else train_fusion.train
    step(
        records,
        out=candidate,
        state=folder,
        device=device_of(config),
        precision=training_precision(config),
        report=told,
        **training_section(config, kind),
    )
    told(0, 1, math.nan, "pictures")
    fault = _draw(config, plan, kind, records, candidate)
    told(1, 1, math.nan, "pictures")
    outcome = _offer(store, config, plan, kind, candidate, run, told)
    device = device_name(device_of(config))
    durations.remember(store, kind, _pace(config, kind), len(records), told.parts, device)
    _clean(folder)
    _keep_logs(store, folder)
    return outcome + fault


def seconds_of(store: Store, config: Config, plan: Plan, kind: ModelKind) -> float | None:
    """Seconds that a training on all images that there are now would take, about; None where none like it was measured on this device."""
    measured = durations.last(store, kind)
    images = sum(1 for _ in members(plan, kind, foreseen=True))
    if measured is None or not images or measured.get("device") != device_name(device_of(config)):
        return None  # older versions did not note on which device it was
    steps = durations.steps_of(kind, training_section(config, kind), images)
    caps = dict.fromkeys(durations.JUDGED, config.retrain.check_images)
    caps[durations.CALIBRATED] = config.train_vit.calibration * max(1, len(plan.classes))
    networks, _ = promotion.judged(store, config, plan, kind)
    return durations.expected(measured, _pace(config, kind), images, steps, caps, networks)


def _pace(config: Config, kind: ModelKind) -> str:
    """Digest of all that the duration of one step depends on; of the device, only of which kind it is."""
    values = training_section(config, kind)
    same = {name: value for name, value in values.items() if name not in durations.COUNTED}
    machine = [device_of(config), training_precision(config), config.threads]
    return digest_of([VERSIONS[kind], same, machine])


def _draw(config: Config, plan: Plan, kind: ModelKind, records: Records, candidate: Path) -> str:
    """Pictures beside a training's logs; what is to be told where they cannot be drawn."""
    try:
        from viewer.fusion_pictures import affordable, draw_samples
        from viewer.training_pictures import choose, draw_cams, draw_curves

        folder = candidate.parent
        draw_curves(folder)
        rows = [row for _, _, row in members(plan, kind)]
        chosen = choose([row.sha256 for row in rows], [row.labels for row in rows], plan.classes)
        how: dict[str, Any] = {"device": device_of(config), "precision": precision_of(config)}
        if kind == "vit":
            how |= config.cam.model_dump(exclude={"low", "high"})
            draw_cams(candidate, folder, records, chosen, plan.classes, **how)
        else:
            fuse = writer("p")
            how |= section(config, fuse.config)
            chosen = affordable(chosen, [row.width * row.height * len(row.labels) for row in rows])
            told = Records(records.store, plan, kind, fuse.inputs)
            draw_samples(candidate, folder, told, chosen, plan.classes, [row.path for row in rows], **how)
    except Exception as error:  # noqa: BLE001 (told; the network is trained all the same)
        return f"; no pictures of it could be drawn: {type(error).__name__}: {error}"
    return ""


def _offer(
    store: Store, config: Config, plan: Plan, kind: ModelKind, candidate: Path, run: str, report: Report
) -> str:
    """Judge a candidate by checks that need no mask; promote it, or note why not."""
    verdict = promotion.judge(store, config, plan, kind, candidate, report)
    key = digest(candidate)
    store.add_checkpoint(key, candidate.read_bytes())
    if not verdict.good:
        promotion.decline(store, kind, run, f"not promoted: {verdict.why}")
        return f"trained, but not promoted: {verdict.why}"
    entry = {
        "digest": key,
        "run": run,
        "config": recipe_digest(config, kind),
        "recipe": recorded(config, kind),
        "classes": len(plan.classes),
        "data": data_record(store, plan, kind),
        "checks": verdict.figures,
    }
    if kind == "fusion":
        entry["sam"] = plan.network("sam")
    promotion.promote(store, kind, entry)
    return f"trained and promoted: {verdict.why}"


def folder_of(store: Store) -> Path:
    """Where trainings keep their state: in the store, or, of a remote one, in the cache folder of this machine."""
    if store.local:
        return store.root / TRAININGS
    return cache_folder() / TRAININGS / digest_of(store.name)


def _keep_logs(store: Store, folder: Path) -> None:
    """Logs and curves of a remote store's training go there too."""
    if not store.local:
        for path in folder.rglob("*"):
            if path.is_file():
                store.put(f"training/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def _clean(folder: Path) -> None:
    """Keep what people look at (logs, curves); drop states, which only a resumed run needs, and the candidate."""
    for path in folder.rglob("*"):
        if path.suffix in (".pt", ".safetensors", ".partial"):
            path.unlink()
