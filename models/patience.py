"""When a training may end before its last step: its smoothed loss has not fallen for a good while."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

SMOOTH = 0.1
"""Share of all steps over which the loss is averaged: batches differ by more than a training gains meanwhile. A plain
mean forgets what is older; an exponential one would go on falling for long where the loss does not."""
MARGIN = 1e-3
"""Relative fall of the smoothed loss that counts as a new minimum."""
EARLIEST = 0.5
"""Share of all steps before which no training ends: the learning rate has hardly begun to fall."""
LEAST = 100
"""Fewest steps without a new minimum that say anything: in less, the noise of the batches decides; little is lost."""


@dataclass
class Patience:
    """Watches one network's loss; all that it knows are a few numbers, which `state` gives and `restore` takes.

    steps: of the whole training; share: of them, within which the smoothed loss must reach a new minimum, 0 for
    ever; since: share of them before which losses do not count, as terms of the loss are still coming in.
    seen: steps so far; recent: the losses that are averaged, oldest first; lowest: the minimum of their mean; at: the
    step of that minimum.
    """

    steps: int
    share: float
    since: float
    seen: int = 0
    recent: list[float] = field(default_factory=list)
    lowest: float = math.inf
    at: int = 0

    def see(self, loss: float) -> None:
        """Take in the loss of one more step."""
        self.seen += 1
        if self.seen <= self.since * self.steps:
            self.at = self.seen
            return
        span = max(1, round(SMOOTH * self.steps))
        self.recent = [*self.recent, loss][-span:]
        mean = sum(self.recent) / len(self.recent)
        # a mean of fewer losses may be low by chance, and the rest would be held against it in vain
        if len(self.recent) < span or mean < (1 - MARGIN) * self.lowest:
            self.lowest, self.at = mean, self.seen

    @property
    def over(self) -> bool:
        """Whether nothing has improved for so long that the training is to end; so it is of a loss that is not finite."""
        waited = self.seen - self.at
        late = self.seen >= EARLIEST * self.steps
        return self.share > 0 and late and waited >= max(LEAST, self.share * self.steps)

    def told(self) -> str:
        """Steps taken, for a checkpoint; where it ended early, of how many, and when the loss last fell."""
        if self.seen >= self.steps:
            return str(self.seen)
        return f"{self.seen} of {self.steps}: nothing improved after {self.at}"

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on as if it had not been interrupted."""
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state made by `state`."""
        for name, value in state.items():
            setattr(self, name, value)
