"""The one place where a Sam is built from a checkpoint and where its image encoder is run."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoints import load_checkpoint, load_official, sam_checkpoint
from models.official import ImageEncoderViT, Sam, sam_model_registry
from models.sam_encoder import FoldedEncoder
from models.tiny_sam import tiny_sam

WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""The official models by the width of their encoders' tokens."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_sam(name: str, checkpoint: Path | None = None, device: str = "cpu") -> Sam:
    """A Sam in evaluation mode with its trained weights, on `device`, in float32.

    name: one of `sam_shapes.NAMES`; checkpoint: a file to take the weights from, the official .pth (or, for tiny,
    .safetensors) format; None: the embedded weights for tiny, the cache or a download for the others.
    Raises ValueError for an unknown name or a file that is not this model's, FileNotFoundError where there is
    none and none can be fetched.
    """
    path = sam_checkpoint(name, checkpoint)
    if name == "tiny":
        sam, weights = tiny_sam(), load_checkpoint(path)[0]
    else:
        # without storage until the weights come: a ViT-H would take 2.4 GB twice
        with torch.device("meta"):
            sam = sam_model_registry[name]()
        weights = load_official(path)
    _refuse_another(path, name, weights)
    fit_weights(sam, weights, f"{path}, as a {name} SAM")
    if isinstance(sam.image_encoder, ImageEncoderViT):
        sam.image_encoder = FoldedEncoder(sam.image_encoder)
    else:
        sam.image_encoder.to(memory_format=torch.channels_last)  # a tenth quicker, more on a GPU
    return sam.to(device).eval()


def normalise(sam: Sam, frames: Tensor, input_sizes: Tensor) -> Tensor:
    """What `Sam.preprocess` makes of the same images before they were padded: padding is 0 after normalising.

    frames: (n, t, t, 3) uint8 RGB, image at the top left; input_sizes: (n, 2) integers, true height and width
    within the frame. Returns (n, 3, t, t) float32.
    """
    pixels = (frames.permute(0, 3, 1, 2).float() - sam.pixel_mean) / sam.pixel_std  # (n, 3, t, t)
    rows = torch.arange(frames.shape[1], device=frames.device)
    columns = torch.arange(frames.shape[2], device=frames.device)
    inside = (rows[None, :] < input_sizes[:, :1])[:, :, None] & (columns[None, :] < input_sizes[:, 1:])[
        :, None, :
    ]
    # the layout that Sam's own preprocessing gives, or convolutions would take another path and round differently
    return torch.where(inside[:, None], pixels, 0.0).contiguous()


def encode(
    sam: Sam,
    augmented: NDArray[np.uint8],
    input_sizes: NDArray[np.integer],
    precision: str,
    *,
    half: bool = False,
) -> NDArray[np.floating]:
    """Image embeddings, as `SamPredictor.set_image` computes them, of images already resized and padded.

    augmented: (n, t, t, 3) uint8 RGB, t the encoder's input side, image at the top left; input_sizes: (n, 2)
    true height and width within the frame (the padding's own values do not matter); precision: float32 or
    bfloat16; half: round what comes out to float16 (infinite where it is beyond that) before it leaves the device.
    Returns (n, d, h, w) float32 or float16. Raises ValueError for a wrong shape or precision.
    """
    return _wait_for(_launch(sam, augmented, input_sizes, precision, half=half))


def encode_each(
    sam: Sam,
    calls: Iterable[tuple[NDArray[np.uint8], NDArray[np.integer]]],
    precision: str,
    *,
    half: bool = False,
) -> Iterator[NDArray[np.floating]]:
    """`encode` of several batches, in order. A GPU is given the next one before the last is waited for.

    calls: `augmented` and `input_sizes` of each; on a GPU they are taken one ahead of what is given out, so that an error
    in one comes before the result of the one before it.
    """
    if sam.device.type != "cuda":
        for frames, sizes in calls:
            yield encode(sam, frames, sizes, precision, half=half)
        return
    under_way: deque[_Pending] = deque()
    for frames, sizes in calls:
        under_way.append(_launch(sam, frames, sizes, precision, half=half))
        if len(under_way) > 1:
            yield _wait_for(under_way.popleft())
    yield from map(_wait_for, under_way)


class _Pending(NamedTuple):
    """Embeddings on their way to the host; done: when they are there, None: now."""

    there: Tensor
    done: torch.cuda.Event | None


def _launch(
    sam: Sam,
    augmented: NDArray[np.uint8],
    input_sizes: NDArray[np.integer],
    precision: str,
    *,
    half: bool,
) -> _Pending:
    """As `encode`, but a GPU is not waited for."""
    side = sam.image_encoder.img_size
    if augmented.ndim != 4 or augmented.shape[1:] != (side, side, 3):
        raise ValueError(f"augmented is {augmented.shape}; this SAM reads (n, {side}, {side}, 3)")
    if input_sizes.shape != (len(augmented), 2) or (input_sizes < 1).any() or (input_sizes > side).any():
        raise ValueError(
            f"input_sizes must be ({len(augmented)}, 2), each 1 to {side}; got {input_sizes.tolist()}"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    given = (np.ascontiguousarray(augmented), np.asarray(input_sizes, np.int64))
    with torch.inference_mode():
        frames, sizes = _upload(given, sam.device)
        embedding = _embed(sam.image_encoder, normalise(sam, frames, sizes), PRECISIONS[precision])
        found = embedding.half() if half else embedding.float()
        if found.device.type != "cuda":
            return _Pending(found.contiguous(), None)
        # into page-locked memory, which a GPU writes some ten times as fast
        there = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        there.copy_(found, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(found.device))
        return _Pending(there, done)


def _wait_for(pending: _Pending) -> NDArray[np.floating]:
    """The embeddings, once they are there."""
    if pending.done is not None:
        pending.done.synchronize()
    return np.asarray(pending.there.numpy())


def _upload(arrays: Iterable[NDArray[np.generic]], device: torch.device) -> list[Tensor]:
    """To the device; to a GPU beside what it is at, not after it."""
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    current, beside = torch.cuda.current_stream(device), _upload_stream(device)
    with torch.cuda.stream(beside):
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
    current.wait_stream(beside)
    for tensor in tensors:  # or its memory would be given to the next batch while this one is still read
        tensor.record_stream(current)
    return tensors


@cache
def _upload_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream of its own for what goes to a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _embed(encoder: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, 3, t, t) float32, normalised, to (n, d, h, w), by matrix products in that precision."""
    if isinstance(encoder, FoldedEncoder):
        return cast(Tensor, encoder(images, dtype))
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return cast(Tensor, encoder(images))


def _refuse_another(path: Path, name: str, weights: dict[str, Tensor]) -> None:
    """Say it plainly where a file is a sound SAM, but another one than was asked for."""
    positions = weights.get("image_encoder.pos_embed")
    width = 0 if positions is None or positions.ndim != 4 else positions.shape[-1]
    held = WIDTHS.get(width)
    if name in WIDTHS.values() and held is not None and held != name:
        raise ValueError(f"{path}: this is a {held} SAM, but {name} was asked for; set sam.model to {held}")


def fit_weights(sam: Sam, weights: dict[str, Tensor], source: str) -> None:
    """Gives `sam` its weights: every tensor there, none left over, every shape right, all as float32.

    weights is emptied on the way, to hold no second copy; source: what to call them in an error.
    Raises ValueError naming the first few that do not fit.
    """
    wanted = sam.state_dict()
    ours = {name for name in wanted if not name.endswith("num_batches_tracked")}
    wrong = [f"{name} is missing" for name in sorted(ours - set(weights))]
    wrong += [f"{name} is not part of it" for name in sorted(set(weights) - set(wanted))]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in sorted(ours & set(weights))
        if weights[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{source}: {'; '.join(wrong[:3])}{more}; give this model's own checkpoint")
    # copies, so that all memory is aligned alike: results then hang on the values alone
    full = {name: weights.pop(name).to(torch.float32, copy=True) for name in sorted(ours)}
    sam.load_state_dict(full, strict=False, assign=True)
    if any(buffer.is_meta for buffer in sam.buffers()):  # what no checkpoint holds: the pixel statistics
        sam.register_buffer("pixel_mean", torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1), False)
        sam.register_buffer("pixel_std", torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1), False)
