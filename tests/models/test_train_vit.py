import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import cams, patience
from models import train_vit as module
from models.cams import activate
from models.checkpoints import load_checkpoint
from models.start import load_start, objectness
from models.surfaces import generate
from models.telling import STEPS
from models.train_start import draw_batch, start_loss
from models.train_vit import Recipe, Training, calibrate, train_vit
from models.vit import METADATA, load_vit
from models.vit_batches import Example, augment, draw, order

RECIPE = Recipe(
    backbone="tiny", pretrained=None, side=64, objectness=True, seed=3, epochs=6, min_steps=1, step_images=4, rate=3e-4,
    head_factor=10.0, weight_decay=0.001, warm_up=0.1, power=0.9, average=0.9, patience=0.3, crop=0.8,
    distil=1.0, contrast=0.5, contrast_from=0.2, low=0.25, high=0.7, local_share=0.25, local_side=16, local_crops=4, width=16,
    temperature=0.5, momentum=0.9, scales=(1.0,), flip=False, calibration=2,
    attention=False, affinity=False, adaptive=False,
)  # fmt: skip

NOTHING = np.zeros(2, bool)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> tuple[list[np.ndarray], np.ndarray]:
    kinds = ("blob", "scratch")
    images = [
        generate(70 + i, size=(60, 64), kind=kinds[i % 2], defects=0 if i > 9 else 2).image for i in range(12)
    ]
    labels = np.zeros((12, 2), bool)
    labels[np.arange(10), np.arange(10) % 2] = True
    return images, labels


class Killed(Exception):
    """Stands for SIGKILL: raised in the middle of a training."""


def killer(at: int):
    def report(step: int, steps: int, loss: float, unit: str) -> None:
        if (step, unit) == (at, STEPS):
            raise Killed

    return report


def test_a_killed_training_ends_with_the_same_bits(data, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", 5)
    whole = train_vit(*data, RECIPE, out=tmp_path / "a.safetensors", state=tmp_path / "a")
    with pytest.raises(Killed):
        train_vit(*data, RECIPE, out=tmp_path / "b.safetensors", state=tmp_path / "b", report=killer(13))
    seen = []
    again = train_vit(
        *data, RECIPE, out=tmp_path / "b.safetensors", state=tmp_path / "b",
        report=lambda step, steps, loss, unit: unit == STEPS and seen.append(step),
    )  # fmt: skip
    assert seen[0] == 11  # goes on from the state after step 10
    assert again == whole
    losses = [next((tmp_path / run).rglob("losses.csv")).read_text().splitlines() for run in "ab"]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1 + 18


def test_a_small_set_is_seen_until_the_fewest_steps_are_done(data, tmp_path: Path):
    images, labels = data
    seen = []
    few = replace(RECIPE, epochs=1, min_steps=7, contrast=0.0)
    train_vit(
        images[:8], labels[:8], few, out=tmp_path / "vit.safetensors", state=tmp_path / "state",
        report=lambda step, steps, loss, unit: seen.append((step, steps, unit)),
    )  # fmt: skip
    assert [told[:2] for told in seen if told[2] == STEPS] == [(n, 7) for n in range(1, 8)], (
        "one epoch would be two steps"
    )
    parts = {unit: total for _, total, unit in seen}
    assert list(parts) == ["images read", STEPS, "images calibrated"], "its bar stands still in none of them"
    assert parts["images read"] == 8
    assert [told for told in seen if told[0] == told[1]] == [
        (total, total, unit) for unit, total in parts.items()
    ]


def test_training_lowers_the_loss_and_finds_the_class(data, tmp_path: Path):
    images, labels = data
    losses: list[float] = []
    train_vit(
        images, labels, replace(RECIPE, epochs=16), out=tmp_path / "vit.safetensors", state=tmp_path / "state",
        report=lambda step, steps, loss, unit: unit == STEPS and losses.append(loss),
    )  # fmt: skip
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])
    vit = load_vit(tmp_path / "vit.safetensors")
    scores = np.stack(
        [activate(vit, image, NOTHING, scales=(1.0,), flip=False).score for image in images[:10]]
    )
    assert (scores.argmax(1) == labels[:10].argmax(1)).mean() >= 0.7
    assert scores[labels[:10]].mean() > scores[~labels[:10]].mean() + 0.1
    assert (vit.tau > 0).all()


LONG = replace(RECIPE, epochs=20, contrast=0.0, patience=0.5)
IDLE = replace(LONG, rate=1e-7, patience=0.1)


def steps_told(path: Path) -> str:
    return json.loads(load_checkpoint(path)[1][METADATA])["steps"]


@pytest.fixture(scope="module")
def idle(data, tmp_path_factory):
    """A training whose loss cannot fall: its folder, its digest and what it told."""
    folder, seen = tmp_path_factory.mktemp("idle"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "LEAST", 3)
        digest = train_vit(
            *data, IDLE, out=folder / "vit.safetensors", state=folder,
            report=lambda *told: told[3] == STEPS and seen.append(told[:2]),
        )  # fmt: skip
    return folder, digest, seen


def test_a_training_whose_loss_cannot_fall_ends_early_and_says_so(idle):
    folder, _, seen = idle
    assert 30 <= len(seen) < 60
    assert seen[-1] == (60, 60)  # bars finish
    assert steps_told(folder / "vit.safetensors").startswith(f"{len(seen)} of 60: nothing improved after ")
    assert len(next(folder.rglob("losses.csv")).read_text().splitlines()) == 1 + len(seen)


def test_a_training_that_improves_takes_all_its_steps(data, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(patience, "LEAST", 3)
    out = tmp_path / "vit.safetensors"
    train_vit(*data, LONG, out=out, state=tmp_path)
    assert steps_told(out) == "60"


@pytest.mark.parametrize("moment", [28, 60])  # in the middle, and when it has just ended early
def test_a_killed_training_ends_early_at_the_same_step(data, idle, tmp_path: Path, monkeypatch, moment):
    monkeypatch.setattr(patience, "LEAST", 3)
    monkeypatch.setattr(module, "SAVE_EVERY", 5)
    folder, whole, _ = idle
    where = {"out": tmp_path / "vit.safetensors", "state": tmp_path}
    with pytest.raises(Killed):
        train_vit(*data, IDLE, **where, report=killer(moment))
    assert train_vit(*data, IDLE, **where) == whole
    assert steps_told(where["out"]) == steps_told(folder / "vit.safetensors") != "60"


def test_tau_is_the_median_of_the_smoothed_maximum(data):
    images, labels = data
    model = Training(RECIPE, 2, 1, "cpu", "float32").average
    recipe = replace(RECIPE, calibration=99)
    tau = calibrate(model, images, labels, recipe, "float32")
    maxima = [
        module.smoothed_maximum(
            activate(model, images[i], labels[i].astype(bool), scales=(1.0,), flip=False).cam[0]
        )
        for i in np.flatnonzero(labels[:, 0])
    ]
    assert float(tau[0]) == pytest.approx(np.median(maxima))
    assert float(calibrate(model, images, labels * False, recipe, "float32").max()) == 0


def test_g_follows_f_and_the_start_stays_as_it_is(data, tmp_path):
    training = Training(replace(RECIPE, contrast_from=0.0), 2, 10, "cpu", "float32")
    examples = module._examples(training.model, *data, "float32", tmp_path)
    start = {name: value.clone() for name, value in training.model.start.state_dict().items()}
    before = training.contrast.whole.weight.clone()
    training.advance(training.draw(examples))
    fast = training.contrast.local.weight.detach()
    torch.testing.assert_close(training.contrast.whole.weight, 0.9 * before + 0.1 * fast)
    assert all(torch.equal(value, start[name]) for name, value in training.model.start.state_dict().items())
    assert int(training.contrast.filled) in (0, 4, 8, 12, 16)  # crops of good images, four each


def test_the_learning_rate_rises_and_then_falls_to_nothing():
    training = Training(RECIPE, 2, 100, "cpu", "float32")
    rates = []
    for training.step in range(100):
        rates.append(training.rate())
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == pytest.approx(RECIPE.rate)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.03 * RECIPE.rate


def test_every_image_is_seen_once_an_epoch():
    assert sorted(order(0, 5, 17)) == list(range(17))
    assert not np.array_equal(order(0, 5, 17), order(0, 6, 17))


def test_objectness_goes_through_the_same_geometry_as_its_image():
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:15, 40:55] = 200
    example = Example(image, (image[..., 0] > 0).astype(np.float32), np.array([True]))
    for seed in range(12):
        one = augment(np.random.default_rng(seed), example, 0.8)
        assert one.objects is not None
        assert one.image.shape[:2] == one.objects.shape
        assert one.objects.size >= 0.75 * example.image[..., 0].size
        inside, outside = one.image[one.objects > 0.5].mean(), one.image[one.objects < 0.5].mean()
        assert inside > outside + 40


def test_a_batch_depends_on_seed_and_step_alone(data):
    examples = [Example(image, None, label) for image, label in zip(*data, strict=True)]
    how = {"batch": 4, "crop": 0.8, "side": 64, "patch": 8, "device": "cpu"}
    one, two, other = (draw(examples, step, seed=3, **how) for step in (7, 7, 8))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.label, two.label)
    assert not torch.equal(one.image, other.image)
    assert one.objects is None


def test_images_and_labels_that_do_not_fit_are_refused(data, tmp_path: Path):
    images, labels = data
    how = {"out": tmp_path / "x", "state": tmp_path}
    with pytest.raises(ValueError, match="12 images and labels of shape"):
        train_vit(images, labels[:3], RECIPE, **how)
    with pytest.raises(ValueError, match="image 1 is float32"):
        train_vit([images[0], images[1].astype(np.float32)], labels[:2], RECIPE, **how)


def test_another_recipe_or_other_data_begins_anew(data, tmp_path: Path):
    images, labels = data
    short = replace(RECIPE, epochs=1, contrast=0.0)
    how = {"out": tmp_path / "x.safetensors", "state": tmp_path / "state"}
    train_vit(images, labels, short, **how)
    train_vit(images, labels, replace(short, seed=4), **how)
    train_vit(images, labels[::-1], short, **how)
    assert len(list((tmp_path / "state").iterdir())) == 3


def test_start_images_are_drawn_from_their_seed_and_a_right_answer_costs_less():
    one, two = draw_batch(5, 2, 64), draw_batch(5, 2, 64)
    assert np.array_equal(one.image, two.image)
    assert one.image.shape == (2, 64, 64, 3)
    kinds = torch.from_numpy(draw_batch(5, 4, 64).kind).long()
    share = torch.nn.functional.avg_pool2d((kinds > 0).float()[:, None], 2)[:, 0]
    right, wrong = (start_loss(sign * 8 * (share - 0.5), torch.zeros(4, 8, 8, 6), kinds) for sign in (1, -1))
    assert right < wrong


def test_what_the_start_finds_is_taken_where_it_is_known(data, tmp_path, monkeypatch):
    images, labels = data
    recipe = replace(RECIPE, min_steps=2, epochs=0.01)
    how = {"state": tmp_path / "state", "threads": 1}
    start = load_start()
    known = [objectness(start, image) for image in images]
    train_vit(images, labels, recipe, out=tmp_path / "alone.safetensors", **how)

    def asked(*_, **__):
        raise AssertionError("the start was asked again")

    monkeypatch.setattr(cams, "objectness", asked)
    train_vit(
        images,
        labels,
        recipe,
        out=tmp_path / "known.safetensors",
        known=known,
        state=tmp_path / "other",
        threads=1,
    )
    alone, told = (load_vit(tmp_path / f"{name}.safetensors") for name in ("alone", "known"))
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, told.state_dict()[name]), name
    told.__dict__["as_shipped"] = False  # of an older network, whose start is another
    with pytest.raises(AssertionError, match="asked again"):
        cams.object_map(told, images[0], known=known[0])
