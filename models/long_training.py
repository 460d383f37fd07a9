"""What the trainings of the shipped weights share: how far they are, and batches drawn ahead of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

Drawn = TypeVar("Drawn")


def progress(step: int, steps: int, elapsed: float, minutes: float) -> float:
    """How much of a training is done, 0 to 1 and beyond, by steps or by time, whichever is further.

    elapsed: seconds so far, those of processes that were killed among them.
    """
    return max(step / steps, elapsed / (60 * minutes))


def drawn_ahead(batches: Dataset[Drawn], first: int, last: int, ahead: int) -> Iterator[Drawn]:
    """The batches of steps first .. last - 1, in order, the same for any number of processes.

    batches: gives a step's batch when asked for it; ahead: processes that draw them beside the training, 0 for none.
    """
    # forked, they share what the batches are drawn from; batch_size None: a step is a batch already
    loader: DataLoader[Drawn] = DataLoader(
        batches, None, sampler=range(first, last), num_workers=ahead,
        multiprocessing_context="fork" if ahead else None,
    )  # fmt: skip
    return iter(loader)
