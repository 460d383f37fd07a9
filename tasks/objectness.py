"""The `objectness` stage: where the embedded start sees a defect of any class; every ViT of the CAM branch builds on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storage.arrays import ArraySpec
from tasks.stage import Stage, counted

if TYPE_CHECKING:
    from models.start import Start


def objectness(
    *, image: np.ndarray, size: np.ndarray, guided: bool, model: Start, precision: str
) -> dict[str, np.ndarray]:
    """What tells defects from bare surface in a block's images, of whatever class: no label touches it.

    image: (image, y, x, 3) uint8; size: (image, 2) uint16 true height and width; guided: whether any network asks for it;
    precision: float32 or bfloat16. Returns objectness (image, y, x) float16 in [0, 1], 0 in padding, and everywhere where
    nobody asks. Every image stands alone.
    """
    from models.start import objectness as seen

    found = np.zeros(image.shape[:3], np.float16)
    for n in counted(len(image)) if guided else ():
        height, width = size[n].tolist()
        pixels = np.ascontiguousarray(image[n, :height, :width])
        found[n, :height, :width] = seen(model, pixels, precision=precision)
    return {"objectness": found}


STAGE = Stage(
    name="objectness",
    version=1,
    function=objectness,
    reads=("image", "size"),
    writes=(
        ArraySpec(
            name="objectness", dims=("image", "y", "x"), dtype="float16", kind="probability",
            description="where the embedded start sees a defect, of whatever class",
        ),
    ),
    facts=("guided",),
    model="start",
    summary="where the embedded start sees a defect of any class; trainings and labels do not touch it",
)  # fmt: skip
