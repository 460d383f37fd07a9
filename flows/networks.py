"""The networks that stages need: which file, which digest, loaded once a process.

Torch takes seconds to load, and a plan with nothing to do needs none of it: hence the imports within functions.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from flows.config import Config
from models.checkpoints import OFFICIAL, cache_folder, digest, sam_checkpoint
from models.hardware import has_bfloat16_unit
from models.sam_shapes import START_WEIGHTS
from storage.store import Store
from tasks.stage import ModelKind

PROMOTED = "promoted.json"
TRAINED: tuple[ModelKind, ...] = ("vit", "fusion")
"""Those that a run trains itself, in this order: the second learns from what the first makes."""


class NoNetworkError(RuntimeError):
    """A stage needs a network that has not been trained yet."""


def device_of(config: Config) -> str:
    """The torch device that networks run on."""
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise NoNetworkError("device = 'cuda', but torch sees no CUDA device; set device: auto or cpu")
    wanted = config.device
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def precision_of(config: Config) -> Literal["float32", "bfloat16"]:
    """The arithmetic of inference on this machine; it is part of every fingerprint of a network's results.

    Decided by what the machine has, not by a trial: a busy moment must not make a store stale. `tiny` gains
    nothing from bfloat16 anywhere.
    """
    if config.precision != "auto":
        return config.precision
    if config.sam.model == "tiny":
        return "float32"
    return "bfloat16" if has_bfloat16_unit(device_of(config)) else "float32"


def settle(config: Config) -> None:
    """Give torch the threads that the config says, in the thread that is about to run a network."""
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)


def pinned(config: Config, kind: ModelKind) -> Path | None:
    """The checkpoint that the config fixes in place of training, if any."""
    return {"vit": config.train_vit.checkpoint, "fusion": config.train_fusion.checkpoint}.get(kind)


@lru_cache(maxsize=2)
def _parsed(data: bytes) -> dict[str, Any]:
    """Promotions are asked for at every block of every stage, and hold an entry an image."""
    found: dict[str, Any] = json.loads(data)
    return found


def promoted(store: Store, kind: ModelKind) -> dict[str, Any] | None:
    """What `promoted.json` says of a trained network: digest, data, recipe; None where there is none."""
    found: dict[str, Any] | None = _parsed(store.documents.read(PROMOTED) or b"{}").get(kind)
    return found


def model_digest(store: Store, config: Config, kind: ModelKind) -> str | None:
    """Sha256 of the weights that a stage would use now; None where they are yet to be trained.

    Nothing is fetched for it: of an official SAM it is known. Raises NoNetworkError where a checkpoint that the
    config names is missing, or is not the one that the config pins.
    """
    found = _model_digest(store, config, kind)
    pin = config.pins.get(kind)
    if found is not None and pin is not None and found != pin:
        raise NoNetworkError(
            f"pins.{kind} = {pin}, but the {kind} network's sha256 is {found}; put the right file there, or "
            "correct the pin"
        )
    return found


def _model_digest(store: Store, config: Config, kind: ModelKind) -> str | None:
    if kind == "sam" and config.sam.checkpoint is None and config.sam.model in OFFICIAL:
        return OFFICIAL[config.sam.model].sha256
    fixed = _file(config, kind)
    if fixed is not None:
        if not fixed.is_file():
            raise NoNetworkError(
                f"{fixed} is missing: the config names it as the {kind} network's checkpoint"
            )
        return _file_digest(fixed, fixed.stat().st_mtime_ns)
    entry = promoted(store, kind)
    return None if entry is None else str(entry["digest"])


def prepare(config: Config, kind: ModelKind) -> None:
    """Have SAM's file at hand, fetched where it has to be, before any block needs it. Raises with the remedy."""
    if kind == "sam":
        _sam_path(config.sam.model, config.sam.checkpoint)


def _file(config: Config, kind: ModelKind) -> Path | None:
    """Where a network's weights lie, of one that the store does not keep."""
    if kind == "sam":
        return _sam_path(config.sam.model, config.sam.checkpoint)
    return START_WEIGHTS if kind == "start" else pinned(config, kind)


@lru_cache(maxsize=8)
def _sam_path(model: str, checkpoint: Path | None) -> Path:
    """Found, and checked by its digest, once a process: an official file has gigabytes."""
    return sam_checkpoint(model, checkpoint)


@lru_cache(maxsize=8)
def _file_digest(path: Path, modified: int) -> str:
    return digest(path)


def load_model(store: Store, config: Config, kind: ModelKind) -> Any:
    """The network, in evaluation mode, on its device; kept for the next block."""
    key = model_digest(store, config, kind)
    if key is None:
        raise NoNetworkError(f"no {kind} network has been trained yet for {store.name}")
    return load_network(store, config, kind, key, _file(config, kind))


def load_network(store: Store, config: Config, kind: ModelKind, key: str, path: Path | None = None) -> Any:
    """A network by its digest, from the store where no path is given; kept for the next block."""
    file = path or store.checkpoint(key, cache_folder() / "checkpoints")
    settle(config)
    return _load(kind, key, file, config.sam.model, device_of(config))


@lru_cache(maxsize=4)
def _load(kind: ModelKind, key: str, path: Path, sam: str, device: str) -> Any:
    if kind == "sam":
        from models.sam import build_sam

        return build_sam(sam, path, device=device)
    if kind == "start":
        from models.start import load_start

        return load_start(path, device)
    if kind == "vit":
        from models.vit import load_vit

        return load_vit(path, device)
    from models.fusion import load_fusion

    return load_fusion(path, device)
