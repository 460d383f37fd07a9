"""What a training's result depends on besides its images: recorded with the network, so that a change can be named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.config import Config
from flows.plan import digest_of
from models.checkpoints import digest
from models.sam_shapes import START_WEIGHTS
from tasks.stage import ModelKind

VERSIONS: dict[ModelKind, int] = {"vit": 7, "fusion": 15}
"""Raised whenever a training learns something else from the same images and config."""
SECTIONS: dict[ModelKind, tuple[str, ...]] = {"vit": ("cam", "train_vit"), "fusion": ("train_fusion",)}
"""Sections of the config that a training reads."""
READERS = {"low": "CTC and distillation", "high": "CTC and distillation"}
"""Parts of the ViT's training that read a key of `cam`."""
CALIBRATION = "the calibration of the ViT's confidence"
"""What reads the other keys of `cam` there."""
NAMED = 4
"""Most changes that are written out; the rest is counted."""


def training_section(config: Config, kind: ModelKind) -> dict[str, Any]:
    """The keywords of a training, without what pins its result."""
    return {name: value for keys in _sections(config, kind).values() for name, value in keys.items()}


def recipe_digest(config: Config, kind: ModelKind) -> str:
    """Of all that a training's result depends on besides its images."""
    return digest_of([VERSIONS[kind], training_section(config, kind), *_start(config, kind)])


def recorded(config: Config, kind: ModelKind) -> dict[str, Any]:
    """The same in full, as JSON has it: `version`, `keys` by section and name, `start`, the digests of what it begins from."""
    keys = {
        f"{section}.{name}": value
        for section, values in _sections(config, kind).items()
        for name, value in values.items()
    }
    found: dict[str, Any] = json.loads(
        json.dumps({"version": VERSIONS[kind], "keys": keys, "start": _start(config, kind)}, default=str)
    )
    return found


def what_changed(before: Mapping[str, Any] | None, config: Config, kind: ModelKind) -> str:
    """Why a network of another recipe is to be trained anew, by key and version.

    before: as of `recorded`, of the network in use; None of one that an older version made, where no more can be told.
    """
    changes = [] if before is None else _changes(before, recorded(config, kind), kind)
    if not changes:
        return f"train_{kind} changed in the config, or in bluemask itself"
    more = [f"and {len(changes) - NAMED} more"] * (len(changes) > NAMED)
    return "; ".join(changes[:NAMED] + more)


def _sections(config: Config, kind: ModelKind) -> dict[str, dict[str, Any]]:
    # the CAM's own thresholds and scales also steer CTC's regions and the calibration
    return {name: getattr(config, name).model_dump(exclude={"checkpoint"}) for name in SECTIONS[kind]}


def _start(config: Config, kind: ModelKind) -> list[str]:
    """Digests of the files of weights that a training begins from."""
    if kind != "vit":
        return []
    started = Path(config.train_vit.pretrained or "")
    return [digest(path) for path in (START_WEIGHTS, started) if path.is_file()]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], kind: ModelKind) -> list[str]:
    old, new = before["keys"], after["keys"]
    found = [_change(key, old, new) for key in dict.fromkeys((*new, *old)) if not _same(key, old, new)]
    if before["version"] != after["version"]:
        name = {"vit": "ViT", "fusion": "fusion"}[kind]
        found.append(f"bluemask's {name} training, version {before['version']} → {after['version']}")
    if before["start"] != after["start"]:
        found.append("the weights that it begins from are others")
    return found


def _same(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return key in old and key in new and bool(old[key] == new[key])


def _change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key not in new:
        return f"{key} is no key any more"
    if key not in old:
        return f"{key} is new, {_said(new[key])}"
    section, name = key.split(".")
    read = f", read by {READERS.get(name, CALIBRATION)}" if section == "cam" else ""
    return f"{key} {_said(old[key])} → {_said(new[key])}{read}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
