"""Weights on disk: safetensors written atomically, and SAM's official files found, fetched and checked.

Torch is loaded where tensors are: whoever only asks for a digest does without.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from models.sam_shapes import TINY_WEIGHTS, known

if TYPE_CHECKING:
    import torch

PIECE = 1 << 20  # bytes read from the network at a time
PACKED = "bluemask"  # the entry of a file's metadata that holds all of ours, as JSON
PATIENCE = 30  # seconds without a byte before a download is given up


@dataclass(frozen=True)
class OfficialFile:
    """A published checkpoint: where it lies, and the sha256 of its bytes (its name carries its md5's beginning)."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[-1]


_PUBLISHED = "https://dl.fbaipublicfiles.com/segment_anything/"
OFFICIAL = {
    "vit_b": OfficialFile(
        _PUBLISHED + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": OfficialFile(
        _PUBLISHED + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": OfficialFile(
        _PUBLISHED + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}


def digest(path: Path) -> str:
    """The sha256 of the file's bytes, 64 hexadecimal digits. Raises FileNotFoundError where there is none."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Writes a safetensors file so that readers see the old file or the whole new one, never a part.

    tensors: any shapes and dtypes, on any device; metadata: strings only. Missing folders are made.
    Returns the digest of the new file.
    """
    from safetensors.torch import save_file

    wrong = [name for name, value in metadata.items() if not isinstance(value, str)]
    if wrong:
        raise TypeError(f"{path}: metadata {wrong[0]!r} is {metadata[wrong[0]]!r}; give a string")
    path.parent.mkdir(parents=True, exist_ok=True)
    # one entry: safetensors writes several in random order, and equal weights would get unequal digests
    packed = {PACKED: json.dumps(dict(metadata), sort_keys=True)}
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    try:
        save_file(apart, partial, metadata=packed)
        _rename_durably(Path(partial), path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return digest(path)


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads a safetensors file onto the CPU: its tensors by name, and its metadata.

    Raises FileNotFoundError where there is no file, ValueError where it is no whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = dict(file.metadata() or {})
            return tensors, metadata | json.loads(metadata.pop(PACKED, "{}"))
    except SafetensorError as error:
        raise ValueError(
            f"{path}: this is no whole safetensors file ({error}); make or fetch it again"
        ) from error


def _rename_durably(partial: Path, path: Path) -> None:
    """Data first, then the name, then the folder: in this order a crash loses nothing that was there."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.chmod(0o644)  # temporary files are private; checkpoints are read by others too
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def cache_folder() -> Path:
    """Where downloads are kept: $BLUEMASK_CACHE, else ~/.cache/bluemask."""
    chosen = os.environ.get("BLUEMASK_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "bluemask"


def resolve(name: str, path: Path | None = None, cache: Path | None = None) -> Path:
    """Finds the official SAM checkpoint: the path given, else the cache's copy, else a download into the cache.

    name: a key of OFFICIAL; path: used as it is, whatever its digest (one's own training is welcome);
    cache: a folder, None: `cache_folder()`. What comes from the cache or the network has the published sha256.
    Raises FileNotFoundError where there is no file and none can be fetched, ValueError where the bytes are wrong.
    """
    if path is not None:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: there is no such checkpoint; give the path of a SAM {name} file"
            )
        return path
    official = OFFICIAL[name]
    kept = (cache or cache_folder()) / official.name
    if not kept.is_file():
        _download(official, kept)
    elif digest(kept) != official.sha256:
        raise ValueError(
            f"{kept}: its sha256 is not that of {official.url}; delete it, and it is fetched again"
        )
    return kept


def sam_checkpoint(name: str, checkpoint: Path | None = None) -> Path:
    """The weights file that `build_sam` would read; errors as there."""
    if known(name) == "tiny" and checkpoint is None:
        return TINY_WEIGHTS
    return resolve(name, checkpoint)


def sam_digest(name: str, checkpoint: Path | None = None) -> str:
    """The sha256 of the weights file, 64 hexadecimal digits; arguments and errors as of `build_sam`."""
    return digest(sam_checkpoint(name, checkpoint))


def load_official(path: Path) -> dict[str, torch.Tensor]:
    """Reads a checkpoint in SAM's official format (.pth, a dict of tensors) or as .safetensors, onto the CPU.

    No code in the file is ever run. Raises ValueError where the file is damaged, cut short, holds code, or
    anything but tensors by name, FileNotFoundError where there is none.
    """
    import torch

    if path.suffix == ".safetensors":
        return load_checkpoint(path)[0]
    remedy = "give an official SAM file, or fetch it again"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint; {remedy}")
    try:
        with warnings.catch_warnings():  # about formats that are refused below in any case
            warnings.simplefilter("ignore")
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path}: this is no whole file of plain weights (damaged, cut short, or holding code); {remedy}"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise ValueError(f"{path}: this file holds something other than tensors by name; {remedy}")
    return weights


def _download(official: OfficialFile, target: Path) -> None:
    """Fetches a file under another name and gives it its own only once its digest is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            seen = _stream(official.url, file)
        if seen != official.sha256:
            raise ValueError(
                f"{official.url}: what came has sha256 {seen[:12]}…, expected {official.sha256[:12]}…; fetch the "
                f"file by other means and put it at {target}"
            )
        _rename_durably(Path(partial), target)
    except OSError as error:
        raise FileNotFoundError(
            f"{target.name} is not here and could not be downloaded ({error}): fetch {official.url} on a "
            f"machine with a network and put it at {target}"
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)


def _stream(url: str, file: BinaryIO) -> str:
    """Copies what lies at `url` into the open file; returns the sha256 of what came."""
    seen = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        while piece := answer.read(PIECE):
            seen.update(piece)
            file.write(piece)
    return seen.hexdigest()


class Due:
    """Says when a training's state is to be kept: after so many steps, or so many seconds since it last was.

    On a busy machine a step may take half a minute, and what was not kept is done again after a kill.
    """

    def __init__(self, steps: int, seconds: float = 60.0) -> None:
        """The clock starts."""
        self._steps, self._seconds, self._kept = steps, seconds, time.monotonic()

    def __call__(self, step: int) -> bool:
        """Whether the state is to be kept after this step, counted from 1; if so, the caller does."""
        if step % self._steps and time.monotonic() - self._kept < self._seconds:
            return False
        self._kept = time.monotonic()
        return True
