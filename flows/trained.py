"""The trainings that a store remembers, for its pages: what they took, and the pictures that they left."""

from __future__ import annotations

from pathlib import Path

from flows import durations
from flows.config import Config
from flows.networks import TRAINED, pinned, promoted
from flows.training import folder_of
from storage.store import Store
from tasks.registry import stages
from tasks.stage import ModelKind
from viewer.trainings import Training, pictures_in


def last_trainings(store: Store, config: Config) -> list[Training]:
    """The last training of each network, in the order of a run; none of one that was never trained here."""
    found = (_last(store, config, kind) for kind in TRAINED)
    return [training for training in found if training is not None]


def _last(store: Store, config: Config, kind: ModelKind) -> Training | None:
    measured, folder = durations.last(store, kind), _newest(store, kind)
    if measured is None and folder is None:
        return None
    taken = {} if measured is None else measured["parts"]
    entry = promoted(store, kind)
    used = folder is not None and entry is not None and folder.name == f"{kind}-{entry['run'][:12]}"
    return Training(
        name=f"train_{kind}",
        before=next(stage.name for stage in stages() if stage.model == kind),
        seconds=sum(seconds for _, seconds in taken.values()),
        images=0 if measured is None else measured["images"],
        made="" if measured is None else measured["made"],
        folder="" if folder is None else folder.name,
        pictures=() if folder is None else pictures_in(folder),
        used=used and pinned(config, kind) is None,
    )


def _newest(store: Store, kind: ModelKind) -> Path | None:
    """The folder of the last training that drew its curves: one that is under way has none yet."""
    drawn = folder_of(store).glob(f"{kind}-*/curves.png")
    return max(
        (path.parent for path in drawn),
        key=lambda path: (path / "curves.png").stat().st_mtime_ns,
        default=None,
    )
