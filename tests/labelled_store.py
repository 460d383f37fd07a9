"""A small store with every stage done by the real code, in this process and without Prefect."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import yaml

from flows import training
from flows.config import Config, load_config
from flows.steps import Run
from models.surfaces import generate
from storage.lock import writer_lock
from storage.store import Store
from tasks.stage import Stage

CLASSES = ("blob", "<b>dent</b>", "scratch")
"""One of them as hostile as a folder's name can be."""
HOSTILE = "\"><script>alert(1)</script> & 'x'.png"


class Silent:
    """Takes progress and draws nothing."""

    def start(self, name, total, unit): ...
    def advance(self, name, images): ...
    def reach(self, name, done, total, *_): ...
    def finish(self, name): ...


@dataclass
class Labelled:
    """An image folder, exact masks, a config and a store."""

    root: Path

    @property
    def config(self) -> Config:
        return load_config(self.root / "run.yaml")

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def moved_from(self, before: Path) -> None:
        """The paths in the store's config are those of the place that it was copied from: correct them."""
        config = (self.root / "store" / "config.yaml").read_text().replace(str(before), str(self.root))
        self.store.documents.write("config.yaml", config.encode())

    def run(self) -> None:
        """Bring the store up to date, as a run does."""
        with writer_lock(self.store.root):
            run = Run(self.store, self.config, Silent())
            for step in run.steps():
                if isinstance(step, Stage):
                    for block in run.plan.todo(step):
                        run.job.run(step, block)
                elif training.decide(run.store, run.config, run.plan, step).train:
                    training.train(run.store, run.config, run.plan, step, lambda *_: None)
                    run.plan.forget()


def draw_set(root: Path) -> None:
    """Nine images: two a class, one of two classes, one good one, one that cannot be read; labels in a CSV."""
    kinds = ("blob", "dent", "scratch")
    rows = ["image,labels"]
    for n in range(8):
        kind = n % 3
        surface = generate(
            7_000_000 + n, size=(64, 72 + 8 * (n % 2)), kind=kinds[kind], defects=0 if n == 7 else 2
        )
        name = HOSTILE if n == 4 else f"{kinds[kind]}/{n:03d}.png"
        labels = "" if n == 7 else CLASSES[kind] + (";scratch" if n == 0 else "")
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        done, data = cv2.imencode(".png", surface.image)
        assert done
        path.write_bytes(data.tobytes())
        rows.append('"' + name.replace('"', '""') + f'","{labels}"')
        mask = (
            (surface.instances.any(0) * (kind + 1)).astype("uint8") if n != 7 else surface.image[..., 0] * 0
        )
        target = root / "masks" / f"{Path(name).stem}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    (root / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    rows.append('"broken.png","blob"')
    (root / "images" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "images" / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def write_config(root: Path) -> None:
    """A config that is through in seconds."""
    values = {
        "data": {"folder": "images", "labels": "images/labels.csv"},
        "store": "store",
        "block": 4,
        "threads": 1,
        "augment": {"views": 4},
        "train_vit": {"epochs": 2, "min_steps": 1, "side": 64, "local_crops": 2},
        "train_fusion": {"min_steps": 4, "max_steps": 4, "crop": 48, "crops": 1},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(values))
