"""What a run did, in figures that tell the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.catalogue import Catalogue
from storage.catalog import ImageRow

LISTED = 10
"""Most items of a kind that are written out; the rest is counted."""


@dataclass(frozen=True)
class Selection:
    """The part of a store that a rerun is about."""

    stage: str
    """The stage to do again; what reads it follows where its content changes."""
    failed: bool = False
    """Only blocks on which it failed last time."""
    images: tuple[str, ...] = ()
    """Only blocks that hold one of these images; none given: every block."""


@dataclass
class Summary:
    """What a run did, in figures that tell the truth."""

    catalogue: Catalogue
    done: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failed_images: dict[str, str] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    """Labels that the classifier contradicts, in words, the flattest contradictions first; at most LISTED."""
    contradictions: int = 0
    """How many there are in all."""
    changed: int = 0
    """Label maps that are other ones than after the last run."""
    compared: int = 0
    """Images that had one then, and have one now."""
    peak_gb: float = 0.0

    @property
    def quarantined(self) -> list[ImageRow]:
        """Images that could not be read, and are in no output."""
        return [row for row in self.catalogue.rows if row.status == "quarantined"]

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not self.done and not self.failures

    @property
    def exit_code(self) -> int:
        """0 all is well; 1 something failed or an alert rule fired; 3 done, but some images could not be read, or bear marks that do not fit."""
        if self.failures or self.alerts:
            return 1
        return 3 if self.quarantined or self.failed_images else 0
