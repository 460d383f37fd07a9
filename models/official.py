"""The official segment_anything's networks, without what its package imports for a mask generator.

`import segment_anything` imports torchvision's operators and, with them, torch's compiler: seconds of every process
that clicks or decodes, and 100 MB, for code that is not used here. So the package is entered without its `__init__`,
whose names are looked up when somebody asks for them.
"""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

PACKAGE = "segment_anything"
PARTS = ("build_sam", "predictor", "automatic_mask_generator")
"""Submodules whose names the package's own `__init__` hands on."""


def _enter() -> None:
    """Register the package, unless it has been imported already. Raises ModuleNotFoundError where there is none."""
    if PACKAGE in sys.modules:
        return
    spec = find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed; `make setup` installs it", name=PACKAGE)
    package = ModuleType(PACKAGE)
    package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
    package.__dict__["__getattr__"] = _name
    sys.modules[PACKAGE] = package


def _name(wanted: str) -> object:
    """A name of the package, from the first of its parts that has it."""
    if not wanted.startswith("_"):
        for part in PARTS:
            module = importlib.import_module(f"{PACKAGE}.{part}")
            if hasattr(module, wanted):
                return getattr(module, wanted)
    raise AttributeError(f"module {PACKAGE!r} has no attribute {wanted!r}")


_enter()

from segment_anything.build_sam import build_sam, sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.image_encoder import (
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock

vars(sys.modules[PACKAGE])["build_sam"] = build_sam  # the submodule has taken its name

__all__ = [
    "Attention", "Block", "ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayAttentionBlock",
    "TwoWayTransformer", "get_rel_pos", "sam_model_registry", "window_partition", "window_unpartition",
]  # fmt: skip
