"""Out of memory: half as much at a time, and go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "defaultcpuallocator")
"""How torch says it in a plain RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).casefold() for sign in SIGNS)


def halving(
    stage: str, function: Callable[..., Any], keywords: Mapping[str, Any], lowered: dict[str, int]
) -> Any:
    """Call a stage's function; where memory does not suffice, again with half its `batch`, down to 1.

    lowered: batch sizes by stage that did suffice, kept for the blocks to come. Raises MemoryError with the remedy
    where even 1 is too much or the stage has no batch.
    """
    batch = lowered.get(stage, keywords.get("batch"))
    while True:
        try:
            return function(**{**keywords, "batch": batch} if batch else keywords)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            import torch

            if not batch or batch == 1:
                raise MemoryError(
                    f"not enough memory, even for one at a time ({error}); free some, or lower memory_gb (smaller "
                    "blocks of new images)"
                ) from error
        batch = lowered[stage] = batch // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
