"""A small real run, made once: three classes and good surfaces, tiny trainings, every stage."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import yaml
from calling import call

from flows.config import Config, load_config
from flows.networks import TRAINED
from flows.plan import deferred
from flows.steps import Run
from models.surfaces import generate
from storage.lock import writer_lock
from storage.store import Store

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("blob", "dent", "scratch")


class Silent:
    """Takes progress and draws nothing."""

    def start(self, name, total, unit): ...
    def advance(self, name, images): ...
    def reach(self, name, done, total, *_): ...
    def finish(self, name): ...


def draw(folder: Path, name: str, seed: int, shape: tuple[int, int] = (64, 72)) -> Path:
    kind = name.split("/")[0]
    surface = generate(
        seed, size=shape, kind=None if kind == "good" else kind, defects=0 if kind == "good" else 2
    )
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), surface.image)
    return path


@dataclass
class Site:
    """An image folder, a config and a store of one test's own."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def path(self) -> Path:
        return self.root / "run.yaml"

    @property
    def config(self) -> Config:
        return load_config(self.path)

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def change(self, **values) -> None:
        known = yaml.safe_load(self.path.read_text())
        for key, value in values.items():
            known[key] = {**known.get(key, {}), **value} if isinstance(value, dict) else value
        self.path.write_text(yaml.safe_dump(known))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "bluemask.py"), *words],
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=280,
            check=False,
        )

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command line in this process: its imports, of seconds, are paid once a test session."""
        return call(*words)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PREFECT_HOME": str(self.root / "prefect"),
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",
        }

    def todo(self) -> dict[str, int]:
        """Images that each stage would do, and the trainings that the policy asks for, after a fresh look."""
        with writer_lock(self.store.root):
            run = Run(self.store, self.config, Silent())
            return run.forecast()

    def finish(self) -> dict[str, int]:
        """Do what there is to do, in this process and without Prefect; returns blocks done by stage."""
        done: dict[str, int] = {}
        with writer_lock(self.store.root):
            run = Run(self.store, self.config, Silent())
            for step in run.steps():
                if step in TRAINED:
                    assert f"train_{step}" not in run.forecast(), "no test here trains anew"
                    continue
                if deferred(run.config, step):
                    continue
                for block in run.plan.todo(step):
                    run.job.run(step, block)
                    done[step.name] = done.get(step.name, 0) + 1
        return done

    def digests(self) -> dict[str, str]:
        """Content digest of every array of every block."""
        return {
            f"{stage.name}/{block}/{name}": array.digest
            for stage in _stages()
            for block, receipt in self.store.receipts(stage.name).items()
            for name, array in receipt.arrays.items()
        }


def _stages():
    from tasks.registry import stages

    return stages()


def small_config(folder: Path) -> None:
    values = {
        "data": {"folder": "images"},
        "store": "store",
        "block": 4,
        "threads": 1,  # the test machine runs two tests at once
        "retries": 0,
        "augment": {"views": 4},
        "train_vit": SMALL_VIT,
        "train_fusion": SMALL_FUSION,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))


SMALL_VIT = {"epochs": 4, "min_steps": 1, "side": 64, "local_crops": 2}
SMALL_FUSION = {"min_steps": 10, "max_steps": 10, "crop": 48, "crops": 2}
