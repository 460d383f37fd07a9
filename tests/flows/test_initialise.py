import cv2
import numpy as np
import pytest
from rich.console import Console

from flows.config import ConfigError, load_config
from flows.initialise import initialise, look_at, print_findings
from storage.sources import SourceError


def picture(path, value=99, size=(8, 6), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size[1], size[0]), value, dtype))
    return path


@pytest.fixture
def folder(tmp_path):
    for n in range(3):
        picture(tmp_path / "images" / "dent" / f"{n}.png", size=(8 + n, 6))
    picture(tmp_path / "images" / "good" / "0.png")
    return tmp_path / "images"


def told(folder, labels=None):
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_findings(look_at(folder, labels, Console(quiet=True)), console)
    return " ".join(console.export_text().split())


def test_the_config_runs_as_it_is(folder, tmp_path):
    initialise(folder, out=tmp_path / "c.yaml", store=tmp_path / "s", labels=None, force=False)
    config = load_config(tmp_path / "c.yaml")
    assert config.data.folder == folder
    assert config.store == tmp_path / "s"
    assert config.data.value_range is None


def test_a_csv_elsewhere_and_deep_images_are_carried_over(folder, tmp_path):
    picture(folder / "dent" / "deep.png", value=3000, dtype=np.uint16)
    labels = tmp_path / "labels of mine.csv"
    labels.write_text("image,labels\nimages/dent/deep.png,dent\nimages/good/0.png,\n")
    initialise(folder, out=tmp_path / "c.yaml", store=tmp_path / "s", labels=labels, force=False)
    config = load_config(tmp_path / "c.yaml")
    assert config.data.labels == labels
    assert config.data.value_range == (0, 4095)


def test_a_config_is_not_replaced_unless_forced(folder, tmp_path):
    (tmp_path / "c.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        initialise(folder, out=tmp_path / "c.yaml", store=tmp_path / "s", labels=None, force=False)
    assert (tmp_path / "c.yaml").read_text() == "mine"
    initialise(folder, out=tmp_path / "c.yaml", store=tmp_path / "s", labels=None, force=True)
    assert load_config(tmp_path / "c.yaml")


def test_the_report_tells_classes_sizes_depths_and_faults(folder):
    (folder / "dent" / "broken.png").write_text("x")
    text = told(folder)
    assert "5 images, 4 of them readable" in text
    assert "dent 3" in text
    assert "no defect 1" in text
    assert "8 to 10 (median" in text
    assert "4 of 8 bits" in text
    assert "1 cannot be read" in text
    assert "dent/broken.png" in text
    assert "hardly learns a class" in text


def test_a_class_with_nothing_to_be_told_apart_from_is_noted(folder):
    (folder / "good" / "0.png").unlink()
    assert "'dent' has nothing to be told apart from" in told(folder)


def test_no_image_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no labelled image"):
        initialise(
            tmp_path / "empty", out=tmp_path / "c.yaml", store=tmp_path / "s", labels=None, force=False
        )


def test_a_folder_of_broken_files_is_one_clear_error(folder, tmp_path):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(
        SourceError, match=r"none of the 4 images .* can be read; the first, dent/0.png: not a PNG"
    ):
        initialise(folder, out=tmp_path / "c.yaml", store=tmp_path / "s", labels=None, force=False)
    assert not (tmp_path / "c.yaml").exists()


def test_the_store_never_lies_among_the_images(folder, tmp_path):
    with pytest.raises(ConfigError, match="lies in the image folder"):
        initialise(folder, out=tmp_path / "c.yaml", store=folder / "store", labels=None, force=False)


def test_labels_nearby_are_named_and_never_used(folder, tmp_path):
    picture(tmp_path / "masks" / "dent" / "0.png")
    picture(folder / "annotations" / "0.png")
    text = told(folder)
    assert "masks is not used" in text
    assert "class 'annotations' sounds like labels" in text


def test_mixed_depths_and_names_in_brackets_are_told_as_they_are(folder, tmp_path):
    picture(folder / "[bold]pit" / "0.png", value=900, dtype=np.uint16)
    text = told(folder)
    assert "[bold]pit 1" in text
    assert "class '[bold]pit' has 1 image;" in text
    assert "of 8 bits and of more are mixed" in text


def test_paths_that_yaml_would_misread_survive(folder, tmp_path):
    odd = folder.rename(tmp_path / "it's: #1 [x]")
    initialise(odd, out=tmp_path / "new" / "c.yaml", store=tmp_path / "s: t", labels=None, force=False)
    config = load_config(tmp_path / "new" / "c.yaml")
    assert (config.data.folder, config.store) == (odd, tmp_path / "s: t")


def test_real_folders_are_understood(shared_data, tmp_path):
    for name, count in (("sd900", 900), ("magnetic_tile", 379)):
        found = look_at(shared_data / name / "images", None, Console(quiet=True))
        assert len(found.readable) == count
        assert found.seen.classes == sorted((shared_data / name / "classes.txt").read_text().split())
    assert found.counts()[""] == 107
