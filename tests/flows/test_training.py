"""What a training leaves in its folder: logs and pictures; and that no picture is worth a network."""

import shutil

from labelled_store import Silent

from flows import training
from flows.networks import promoted
from flows.steps import Run
from storage.lock import writer_lock
from viewer import training_pictures


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_training_leaves_its_logs_and_pictures_and_nothing_else(labelled_once):
    vit, fusion = (
        next((labelled_once.store.root / "training").glob(f"{kind}-*")) for kind in ("vit", "fusion")
    )
    assert names(vit) == ["cams.png", "curves.png", "losses.csv"]
    assert names(fusion) == ["curves.png", "fusion.jsonl"]


def again(copy):
    """The ViT's training once more, in a copy of a store; what became of it, and its folder."""
    shutil.rmtree(copy.store.root / "training")
    with writer_lock(copy.store.root):
        run = Run(copy.store, copy.config, Silent())
        outcome = training.train(copy.store, copy.config, run.plan, "vit", lambda *_: None)
    return outcome, next((copy.store.root / "training").glob("vit-*"))


def test_the_same_training_has_the_same_pictures(labelled_once, labelled):
    outcome, folder = again(labelled)
    assert outcome.startswith("trained")
    before = next((labelled_once.store.root / "training").glob("vit-*"))
    assert folder.name == before.name
    for name in ("cams.png", "curves.png"):
        assert (folder / name).read_bytes() == (before / name).read_bytes()


def test_a_picture_that_cannot_be_drawn_is_told_and_costs_nothing(labelled, monkeypatch):
    def broken(*_, **__):
        raise KeyError("no such font")

    monkeypatch.setattr(training_pictures, "draw_cams", broken)
    outcome, folder = again(labelled)
    assert outcome.startswith("trained")
    assert outcome.endswith("; no pictures of it could be drawn: KeyError: 'no such font'")
    assert names(folder) == ["curves.png", "losses.csv"]
    assert promoted(labelled.store, "vit") is not None
