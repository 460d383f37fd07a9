"""Dataset step train_fusion: the fusion network, taught by the agreement of P1 and P2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.fusion import Precision
    from models.fusion_patches import Record
    from models.telling import Report

READS = (
    "image", "slot_class", "cam", "mean", "entropy", "p1", "p2", "weight", "annotation", "reliability", "sha256",
    "feature",
)  # fmt: skip
"""Arrays that a record holds, of one image, cut to its true extent."""


def train(
    records: Sequence[Record],
    *,
    out: Path,
    state: Path,
    device: str = "cpu",
    precision: Precision = "float32",
    threads: int | None = None,
    report: Report | None = None,
    **recipe: Any,
) -> str:
    """Train on whole images.

    records: one an image, holding READS without the image axis; read twice and in order, so it may read from
    disk. recipe: the fields of `models.fusion_records.FusionRecipe`. out, state, device, precision, threads,
    report: of `models.train_fusion.train_fusion`.
    Returns the digest of the checkpoint. Raises ValueError where there is nothing to learn from.
    """
    from models.fusion_records import FusionRecipe
    from models.train_fusion import train_fusion

    return train_fusion(
        records, FusionRecipe(**recipe), out=out, state=state, device=device, precision=precision,
        threads=threads, report=report,
    )  # fmt: skip
