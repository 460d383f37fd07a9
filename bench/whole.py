"""A whole `bluemask run` in a process of its own, with the seconds that its networks take.

    python -m bench.whole CONFIG.yaml

Prints one line of JSON: wall time, time in models (trainings included, and apart), peak memory, seconds by step.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

MODELS = (
    ("models.sam_decoder", "answer_prompts"),
    ("models.start", "objectness"),
    ("models.cams", "activate"),
    ("models.fusion", "probabilities"),
)
ENCODER = ("_launch", "_wait_for")
"""Of `models.sam`: a GPU is at work from the one until the other is done."""
TRAININGS = (("models.train_vit", "train_vit"), ("models.train_fusion", "train_fusion"))


class Clock:
    """Seconds during which at least one of some functions is running, in whatever thread."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.seconds, self._running, self._since = 0.0, 0, 0.0
        self._lock = threading.Lock()

    def watch(self, module: str, name: str) -> None:
        """Count a function's calls from now on."""
        home = importlib.import_module(module)
        function: Callable[..., Any] = getattr(home, name)

        @wraps(function)
        def watched(*args: Any, **keywords: Any) -> Any:
            self._enter()
            try:
                return function(*args, **keywords)
            finally:
                self._leave()

        setattr(home, name, watched)

    def watch_between(self, module: str, first: str, last: str) -> None:
        """Count from each call of a function until one of another is over."""
        home = importlib.import_module(module)
        begin: Callable[..., Any] = getattr(home, first)
        end: Callable[..., Any] = getattr(home, last)

        @wraps(begin)
        def begun(*args: Any, **keywords: Any) -> Any:
            self._enter()
            return begin(*args, **keywords)

        @wraps(end)
        def ended(*args: Any, **keywords: Any) -> Any:
            try:
                return end(*args, **keywords)
            finally:
                self._leave()

        setattr(home, first, begun)
        setattr(home, last, ended)

    def _enter(self) -> None:
        with self._lock:
            if not self._running:
                self._since = time.perf_counter()
            self._running += 1

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self.seconds += time.perf_counter() - self._since


def measure(config: Path) -> dict[str, Any]:
    """Run a config to its end."""
    from rich.console import Console

    inference, training = Clock(), Clock()
    for clock, functions in ((inference, MODELS), (training, TRAININGS)):
        for module, name in functions:
            clock.watch(module, name)
    inference.watch_between("models.sam", *ENCODER)
    from flows.begin import run_config

    started = time.perf_counter()
    summary = run_config(config, Console(stderr=True))
    wall = time.perf_counter() - started
    if summary.failures:
        raise RuntimeError(f"the run failed: {summary.failures}")
    return {
        "wall": wall,
        "models": inference.seconds,
        "trainings": training.seconds,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "steps": summary.seconds,
        "images": sum(row.status == "active" for row in summary.catalogue.rows),
    }


if __name__ == "__main__":
    import bluemask  # noqa: F401  (its environment for Prefect)

    print(json.dumps(measure(Path(sys.argv[1]))))
