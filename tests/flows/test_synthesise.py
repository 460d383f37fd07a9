"""`bluemask synth`: what lies on disk, and what it refuses."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from flows import synthesise as module
from flows.config import ConfigError
from flows.synthesise import synthesise, write_set
from models.bluefilm import CLASSES, FOLDERS, digest, draw, pictures
from storage.pixels import read_label_map
from storage.sources import scan
from tasks.evaluate import find_masks

SIDE = 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    return folder, write_set(folder, count=2, side=SIDE)


def test_the_digest_is_that_of_the_pixels(drawn):
    assert drawn[1] == digest(pictures(2, side=SIDE))


def test_a_folder_per_class_is_what_ingest_reads(drawn):
    found = scan(drawn[0] / "images", None, ("good",))
    assert tuple(found.classes) == CLASSES
    assert len(found.sources) == 2 * len(FOLDERS)
    assert not found.problems


def test_masks_pair_with_images_and_hold_the_same_pixels(drawn):
    folder, _ = drawn
    names = [source.path for source in scan(folder / "images", None, ("good",)).sources]
    for name, path in find_masks(folder / "masks", names).items():
        kind, number = name.split("/")[0], int(name[-7:-4])
        picture = draw(kind, number, side=SIDE)
        assert np.array_equal(read_label_map(path), picture.mask)
        assert np.array_equal(cv2.imread(str(folder / "images" / name))[..., ::-1], picture.image)


def test_a_folder_that_holds_anything_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"is not empty; name a new folder"):
        synthesise(tmp_path, count=1, seed=0, side=SIDE)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match="is not empty"):
        synthesise(tmp_path / "notes.txt", count=1, seed=0, side=SIDE)


def test_a_drawing_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    whole = module.draw

    def stopped(name, number, **how):
        if name == FOLDERS[1]:
            raise KeyboardInterrupt
        return whole(name, number, **how)

    monkeypatch.setattr(module, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path, count=1, seed=0, side=SIDE)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert synthesise(Path(), count=1, seed=5, side=SIDE) == 0, "and can be taken up"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks"]


def test_it_says_what_to_do_next(tmp_path, capsys):
    assert synthesise(tmp_path / "film", count=1, seed=5, side=SIDE) == 0
    said = capsys.readouterr().out
    assert f"5 images of {SIDE} × {SIDE} pixels" in said
    assert digest(pictures(1, seed=5, side=SIDE)) in said
    for words in ("bluemask init", "bluemask run", "bluemask evaluate"):
        assert words in said


def test_the_measured_set_with_a_wrong_digest_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "COUNT", 1)
    monkeypatch.setattr(module, "SIDE", SIDE)
    assert synthesise(tmp_path / "wrong", count=1, seed=0, side=SIDE) == 1
    assert "do not compare" in capsys.readouterr().out
    monkeypatch.setattr(module, "DIGEST", digest(pictures(1, side=SIDE)))
    assert synthesise(tmp_path / "right", count=1, seed=0, side=SIDE) == 0
