"""What is known of each SAM without building it: names, input sides, shapes. No torch, so that planning is quick."""

from __future__ import annotations

from pathlib import Path

NAMES = ("tiny", "vit_b", "vit_l", "vit_h")
WEIGHTS = Path(__file__).parent / "weights"
TINY_WEIGHTS = WEIGHTS / "tiny_sam.safetensors"
START_WEIGHTS = WEIGHTS / "tiny_vit.safetensors"
SIDE = 192  # of `tiny`: input side in pixels
WIDTH = 128  # of `tiny`: channels of the embedding
STRIDE = 4  # of `tiny`: its decoder upsamples by 4, so that its masks have the input's own resolution


def known(name: str) -> str:
    """The name of a SAM. Raises ValueError for one that is not known."""
    if name not in NAMES:
        raise ValueError(f"SAM {name!r} is not known; choose one of {', '.join(NAMES)}")
    return name


def input_side(name: str) -> int:
    """Side in pixels of the square that a SAM's image encoder takes. Raises ValueError for an unknown name."""
    return (
        SIDE if known(name) == "tiny" else 1024
    )  # the one size that every official checkpoint was trained at


def embedding_shape(name: str) -> tuple[int, int, int]:
    """Channels, rows and columns of a SAM's image embedding. Raises ValueError for an unknown name."""
    side = input_side(name)
    return (WIDTH, side // STRIDE, side // STRIDE) if name == "tiny" else (256, side // 16, side // 16)
