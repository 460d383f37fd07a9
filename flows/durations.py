"""How long a training took, part by part: kept, so that the next one's time is told before it starts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flows.networks import PROMOTED
from models.telling import LOOK_STEPS, READ, READ_AGAIN, STEPS, Report
from storage.receipts import now
from storage.store import Store
from tasks.stage import ModelKind

TIMED = "timed"
"""Where `promoted.json` keeps the durations, by network."""
COUNTED = frozenset(
    {"epochs", "min_steps", "max_steps", "patience", "seed"}
    | {
        "low",
        "high",
        "rate",
        "head_factor",
        "weight_decay",
        "warm_up",
        "power",
        "average",
        "temperature",
        "momentum",
    }
    | {"lr", "ema", "drop_cam", "drop_sam", "drop_all", "balance", "consistency", "abstain", "top", "floor"}
)
"""Keywords of a training that say how many steps it takes, which, or what is learned in one, and not how long one takes."""
JUDGED = ("images judged", "images judged as before")
"""Units of the parts in which `promotion.judge` looks at the new network, and at the one before where there is one."""
CALIBRATED = "images calibrated"
"""Units of the part that ends the ViT's training."""
Parts = Mapping[str, tuple[int, float]]
"""Units done and seconds that they took, by what the units are called."""


class Stopwatch:
    """Hears how far a training is, passes it on, and adds up what each of its parts takes."""

    def __init__(self, report: Report) -> None:
        """report: to whom it is passed on. The clock starts."""
        self._report, self._last = report, time.perf_counter()
        self.parts: dict[str, tuple[int, float]] = {}
        """Units that this process has done, and seconds, by unit: of a training that was taken up again, its end."""

    def __call__(self, done: int, total: int, loss: float, unit: str) -> None:
        """As of `models.telling.Report`: the time since the last call was spent on this unit."""
        moment = time.perf_counter()
        units, seconds = self.parts.get(unit, (0, 0.0))
        self.parts[unit] = units + 1, seconds + moment - self._last
        self._last = moment
        self._report(done, total, loss, unit)


def remember(store: Store, kind: ModelKind, basis: str, images: int, parts: Parts, device: str) -> None:
    """Keep what a training took, in place of what the one before did.

    basis: digest of all that a step's duration depends on; images: it learned from; parts: of a `Stopwatch`;
    device: the GPU's or CPU's name. A training that was taken up again after its last step tells nothing of a step, and is not kept.
    """
    if STEPS not in parts:
        return
    taken = {unit: [units, round(seconds, 3)] for unit, (units, seconds) in parts.items()}
    everything = store.read_json(PROMOTED) or {}
    everything.setdefault(TIMED, {})[kind] = {
        "made": now(),
        "basis": basis,
        "device": device,
        "images": images,
        "parts": taken,
    }
    store.write_json(PROMOTED, everything)


def last(store: Store, kind: ModelKind) -> dict[str, Any] | None:
    """What is known of how long the last training of a network took; None where nothing is."""
    found: dict[str, Any] | None = (store.read_json(PROMOTED) or {}).get(TIMED, {}).get(kind)
    return found


def expected(
    measured: Mapping[str, Any],
    basis: str,
    images: int,
    steps: Mapping[str, int],
    caps: Mapping[str, int],
    networks: int,
) -> float | None:
    """Seconds that a training will take, about, by what the last one took; None where that one was of another basis.

    measured: as of `last`; images: it would learn from; steps: of it, by what they are called; caps: images that a part goes
    through at most, by unit; networks: that are judged in the end, the new one and perhaps the one before. A step takes
    as long as one did, reading grows with the images, calibration and judging up to their caps, and pictures take what
    they did.
    """
    parts: Parts = measured["parts"]
    judged = [unit for unit in JUDGED if unit in parts]
    unmeasured = any(count and unit not in parts for unit, count in steps.items())
    if measured["basis"] != basis or unmeasured or (networks and not judged):
        return None
    seconds = 0.0
    for unit, (units, taken) in parts.items():
        if unit in (STEPS, LOOK_STEPS):
            seconds += taken / units * steps.get(unit, 0)
        else:
            often = networks / len(judged) if unit in JUDGED else 1
            seconds += often * taken * _growth(unit, measured["images"], images, caps)
    return seconds


def _growth(unit: str, before: int, images: int, caps: Mapping[str, int]) -> float:
    """How many times the images of before a part goes through."""
    if unit in (READ, READ_AGAIN):
        return images / before
    return min(images, caps[unit]) / min(before, caps[unit]) if unit in caps else 1.0


def steps_of(kind: ModelKind, keywords: Mapping[str, Any], images: int) -> dict[str, int]:
    """Steps of a training on so many images, at least one, unless it ends early; by what they are called.

    keywords: of the training, as the config gives them. Of the fusion's two folds each is taken to hold half of the images.
    """
    if kind == "vit":
        from models import train_vit

        return {STEPS: train_vit.steps_of(images, train_vit.Recipe(**keywords))}
    from models import appearance, train_fusion
    from models.fusion import FOLDS
    from models.fusion_records import FusionRecipe

    recipe = FusionRecipe(**keywords)
    others = max(1, images // FOLDS)
    looks = FOLDS * appearance.steps_of(others, recipe.max_steps) if images > 1 else 0
    return {
        LOOK_STEPS: looks,
        STEPS: FOLDS * train_fusion.steps_of(others * recipe.crops, recipe),
    }
