"""timm's ViT, without its other architectures and without torch's compiler.

`import timm` imports all of its models, and torchvision's operators, and by both torch's compiler: half of the seconds
in which a process that makes a CAM starts, and 200 MB, for code that is not used here. So timm's packages are entered
without their `__init__`, which is run when somebody asks for a name that it alone gives.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGES = {"timm": "version", "timm.models": None, "timm.data": "constants"}
"""Those that are entered, and a submodule of names that the ViT takes from the package."""
COMPILER = "torch._dynamo.utils"


def _enter(name: str) -> None:
    """Register a package, unless it has been imported already. Raises ModuleNotFoundError where there is none."""
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"{name} is not installed; `make setup` installs it", name=name)
    package = module_from_spec(spec)
    vars(package)["__getattr__"] = partial(_filled, package)
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    if (part := PACKAGES[name]) is not None:
        known = vars(importlib.import_module(f"{name}.{part}"))
        vars(package).update({word: known[word] for word in known if word.isupper() or word == "__version__"})


def _filled(package: ModuleType, wanted: str) -> Any:
    """A name that the package's `__init__` gives, which is now run."""
    name, spec = package.__name__, package.__spec__
    if spec is None or spec.loader is None or (wanted.startswith("_") and wanted != "__all__"):
        raise AttributeError(f"module {name!r} has no attribute {wanted!r}")
    if vars(package).pop("__getattr__", None) is not None:
        spec.loader.exec_module(package)
    return getattr(package, wanted)


@contextmanager
def _compiler_when_asked() -> Iterator[None]:
    """What torchvision asks torch's compiler for at its import, whether it could compile, it gets when it asks."""
    if COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(COMPILER)

    def real(wanted: str) -> Any:
        if wanted.startswith("_"):  # of what asks every module for its file
            raise AttributeError(f"module {COMPILER!r} has not been imported")
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), wanted)

    vars(stand_in).update(is_compile_supported=lambda *words: real("is_compile_supported")(*words))
    vars(stand_in)["__getattr__"] = real
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


for each in PACKAGES:
    _enter(each)

with _compiler_when_asked():
    from timm.layers.attention import Attention
    from timm.layers.pos_embed import resample_abs_pos_embed
    from timm.models.vision_transformer import VisionTransformer


def create_model(name: str, **how: Any) -> Any:
    """Any model of timm's, whose other architectures are imported for it."""
    return importlib.import_module("timm").create_model(name, **how)


__all__ = ["Attention", "VisionTransformer", "create_model", "resample_abs_pos_embed"]
