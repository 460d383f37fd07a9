import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models.vit import build_vit, save_vit
from tasks.palette import colour
from viewer import training_pictures as pictures
from viewer.training_pictures import (
    CLASSIFIES,
    RISES,
    Losses,
    Sight,
    choose,
    draw_cams,
    draw_curves,
    read_losses,
    sample_cams,
    smoothed,
)

LOOKING = {"scales": (1.0,), "flip": False, "attention": False, "affinity": False, "adaptive": False}


def vit_log(folder, steps=40, begins=10):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[n, 1e-4, 2 - n / steps, 0.0 if n < begins else 3.0] for n in range(steps)]
    with (folder / "losses.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "rate", "classification", "contrast"], *rows])


def fusion_log(folder, steps=(40, 30)):
    entries = [
        {"fold": fold, "step": n, "loss": 1.5, "agreement": 0.5, "consistency": 1.0}
        for fold, last in enumerate(steps)
        for n in range(10, last + 1, 10)
    ]
    (folder / "fusion.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_the_vit_has_one_panel_and_ctc_is_drawn_from_where_it_begins(tmp_path):
    vit_log(tmp_path / "0123")
    (network,) = read_losses(tmp_path)
    assert network.step.tolist() == list(range(1, 41))
    contrast = network.losses["contrast"]
    assert np.isnan(contrast[:10]).all()
    assert (contrast[10:] == 3).all()


def test_a_training_without_ctc_has_no_curve_of_it(tmp_path):
    vit_log(tmp_path / "0123", begins=99)
    (axes,) = pictures.loss_curves(read_losses(tmp_path)).axes
    assert [line.get_label() for line in axes.lines if not line.get_label().startswith("_")] == [
        "classification"
    ]


def test_each_fold_has_its_panel_with_named_axes(tmp_path):
    fusion_log(tmp_path)
    figure = pictures.loss_curves(read_losses(tmp_path))
    assert [axes.get_title() for axes in figure.axes] == ["fusion, fold 1", "fusion, fold 2"]
    for axes, last in zip(figure.axes, (40, 30), strict=True):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
        assert max(axes.lines[0].get_xdata()) == last
        faint, bold = axes.lines[:2]
        assert faint.get_alpha() < 0.5
        assert faint.get_linewidth() < bold.get_linewidth()
        assert faint.get_color() == bold.get_color() == colour(1)


def test_the_fusion_s_losses_have_lines_of_their_own_beside_their_sum(tmp_path):
    fusion_log(tmp_path)
    for axes in pictures.loss_curves(read_losses(tmp_path)).axes:
        named = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert {name: line.get_ydata()[0] for name, line in named.items()} == pytest.approx(
            {"agreement": 0.5, "consistency": 1.0, "loss": 1.5}
        )
        assert len({line.get_color() for line in named.values()}) == 3


@pytest.mark.parametrize("folds", [1, 2])
def test_beside_the_fusion_s_curves_stands_once_why_they_rise_and_nothing_covers_it(tmp_path, folds):
    fusion_log(tmp_path, steps=(40, 30)[:folds])
    figure = pictures.loss_curves(read_losses(tmp_path))
    lines = sorted(figure.texts, key=lambda text: -text.get_position()[1])
    assert " ".join(line.get_text() for line in lines) == RISES
    figure.canvas.draw()
    page, boxes = figure.bbox, [line.get_window_extent() for line in lines]
    panels = [axes.get_tightbbox() for axes in figure.axes]
    for n, box in enumerate(boxes):
        assert (page.x0 <= box.x0, box.x1 <= page.x1, page.y0 <= box.y0) == (True,) * 3, "it is not cut"
        assert not any(box.overlaps(other) for other in [*panels, *boxes[n + 1 :]])


def test_beside_the_vit_s_curves_stands_what_they_are(tmp_path):
    vit_log(tmp_path / "0123")
    figure = pictures.loss_curves(read_losses(tmp_path))
    lines = sorted(figure.texts, key=lambda text: -text.get_position()[1])
    assert " ".join(line.get_text() for line in lines) == CLASSIFIES


@pytest.mark.parametrize("count", [1, 2, 7, 15, 31, 300])
def test_smoothing_keeps_what_is_constant_and_evens_out_the_rest(count):
    np.testing.assert_allclose(smoothed(np.full(count, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=count)
    even = smoothed(noise)
    assert even.shape == noise.shape
    assert count < 60 or even.std() < 0.5 * noise.std()
    noise[: count // 2] = np.nan
    assert (np.isnan(smoothed(noise)) == np.isnan(noise)).all()


def test_curves_are_written_whole(tmp_path):
    fusion_log(tmp_path)
    draw_curves(tmp_path)
    with Image.open(tmp_path / "curves.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "fusion.jsonl"]


def test_without_a_log_there_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"neither losses\.csv nor fusion\.jsonl"):
        draw_curves(tmp_path)


def test_images_are_chosen_by_digest_alone():
    rng = np.random.default_rng(0)
    digests = [f"{n:064x}" for n in rng.permutation(30)]
    labels = [("a",) if n % 3 else ("a", "b") if n % 2 else () for n in range(30)]
    chosen = choose(digests, labels, ("a", "b", "c"))
    assert [k for k, _ in chosen] == [0, 0, 1, 1]
    assert all(("a", "b", "c")[k] in labels[n] for k, n in chosen)
    order = rng.permutation(30)
    again = choose([digests[n] for n in order], [labels[n] for n in order], ("a", "b", "c"))
    assert [(k, digests[n]) for k, n in chosen] == [(k, digests[order[n]]) for k, n in again]
    many = [str(n) for n in range(40)]
    assert {k for k, _ in choose(digests, [many] * 30, many)} == set(range(pictures.MOST))


def test_every_image_stands_beside_its_cam_with_name_and_score():
    image = np.full((30, 50, 3), 90, np.uint8)
    cam = np.zeros((30, 50), np.float32)
    cam[10:20] = 1
    sights = [
        Sight(image, cam, "$dent$", 0.934),
        Sight(image, cam, "$dent$", 0.5),
        Sight(image, cam, "rust", 0.2),
    ]
    figure = sample_cams(sights)
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.texts] == [
        r"\$dent\$ · score 0.93",
        r"\$dent\$ · score 0.50",
        "rust · score 0.20",
    ]
    plain, seen = (axes.get_images()[0].get_array() for axes in figure.axes[:2])
    assert np.allclose(plain, 90 / 255)
    assert seen[15].mean() > seen[5].mean()


def test_cams_are_the_new_networks(tmp_path):
    """The picture is of the checkpoint, and reads no image but those that it shows."""
    model = build_vit("tiny", 2, side=64, objectness=True)
    model.tau.fill_(0.5)
    save_vit(tmp_path / "new.safetensors", model, {})
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    read = []

    class Watched:
        def __getitem__(self, n):
            read.append(n)
            return {"image": image, "label": np.array([n == 4, n == 2])}

    how = {"device": "cpu", "precision": "float32", **LOOKING}
    names = ("rust", "dent", "newer than the network")
    draw_cams(tmp_path / "new.safetensors", tmp_path, Watched(), [(0, 4), (1, 2), (2, 9)], names, **how)
    assert read == [4, 2]
    assert (tmp_path / "cams.png").is_file()
    shown = pictures.look(model, Watched()[2], 1, "dent", precision="float32", **LOOKING)
    assert (shown.cam.min(), shown.image.shape) >= (0, image.shape)
    assert shown.cam.max() <= 1
    assert 0 < shown.score < 1


def test_a_large_image_is_drawn_small(monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 32)
    model = build_vit("tiny", 1, side=64, objectness=True)
    record = {"image": np.zeros((40, 80, 3), np.uint8), "label": np.array([True])}
    shown = pictures.look(model, record, 0, "rust", precision="float32", **LOOKING)
    assert shown.image.shape == (16, 32, 3)
    assert shown.cam.shape == (16, 32)


def test_nothing_to_show_is_no_fault(tmp_path):
    model = build_vit("tiny", 1, side=64, objectness=False)
    save_vit(tmp_path / "new.safetensors", model, {})
    draw_cams(
        tmp_path / "new.safetensors", tmp_path, [], [], (), device="cpu", precision="float32", **LOOKING
    )
    assert not (tmp_path / "cams.png").exists()


def test_a_curve_of_one_entry_can_be_drawn():
    one = Losses("fusion, fold 1", np.array([4]), {"agreement": np.array([0.5])})
    assert pictures.loss_curves([one, replace(one, losses={"agreement": np.array([np.nan])})]).axes
