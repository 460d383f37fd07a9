"""Every format that labels are written in, and those from which corrected masks come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tasks import (
    export,
    export_coco,
    export_cvat,
    export_folders,
    export_label_studio,
    export_soft,
    export_yolo,
)
from tasks.export import ExportError, Format

MODULES = (export, export_folders, export_coco, export_yolo, export_cvat, export_label_studio, export_soft)
FORMATS: dict[str, Format] = {item.name: item for module in MODULES for item in module.FORMATS}
Reader = Callable[[Path, Sequence[str]], Iterator[tuple[str, np.ndarray | None]]]
"""A file and the classes to images' paths without their ending, each with its mask; None means no defect."""
READERS: dict[str, Reader] = {
    "cvat": export_cvat.read_cvat,
    "label-studio": export_label_studio.read_label_studio,
}


def format_of(name: str) -> Format:
    """A format by its name. Raises ExportError with the names there are."""
    if name not in FORMATS:
        raise ExportError(f"format {name!r} is not known; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def reader_of(name: str) -> Reader:
    """What reads a format back. Raises ExportError with the names there are."""
    if name not in READERS:
        raise ExportError(f"nothing reads {name!r} back; choose one of {', '.join(READERS)}")
    return READERS[name]
