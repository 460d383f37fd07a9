"""What is made once for all processes of a test session, and the copies that tests take of it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

MADE = "made"


def copied(source: Path, target: Path, *ignored: str) -> None:
    """A copy of a site or store; networks are linked, as nobody writes into one that is there."""
    shutil.copytree(
        source, target, copy_function=_copied_or_linked, ignore=shutil.ignore_patterns(MADE, *ignored)
    )


def _copied_or_linked(source: str, target: str) -> None:
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


def made_once(factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of this name that `make` has filled; the first process that asks for it fills it, others wait.

    factory: pytest's own of temporary folders; those of a session's processes lie side by side.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / MADE).exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failure left
            folder.mkdir()
            make(folder)
            (folder / MADE).touch()
    return folder
