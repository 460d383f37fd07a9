import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from disc_scenes import QUICK, RECORDS, surface

from models import fusion_records, patience
from models.appearance import Appearance, look
from models.checkpoints import load_checkpoint
from models.fusion import BOUND, FOLDS, KIND, UNSAID, fold_of, load_fusion, probabilities
from models.fusion_losses import agreement_loss, class_probabilities, consistency_loss, foreground_share
from models.fusion_patches import Batch
from models.fusion_records import FusionRecipe, appearances, collect, lessons_of, parted
from models.telling import STEPS
from models.train_fusion import Fold, others, schedule, steps_of, train_fusion


def looks(recipe):
    """Steps of the look's networks, which come first."""
    return FOLDS * min(200, 3 * recipe.max_steps)


pytestmark = pytest.mark.usefixtures("one_thread")


def log_p(values):
    """(view, 1 + slot, y, x) log-probabilities from foreground's probability (view, y, x)."""
    p = torch.tensor(values, dtype=torch.float32)
    return torch.stack([1 - p, p], 1).log()


def test_the_softmax_is_over_background_and_the_views_own_slots():
    step = Batch(None, np.array([0, 0, 1]), np.array([1, 2, 1]), None, None, None, (0, 0))
    p = class_probabilities(torch.zeros(3, 2, 2), step).exp()
    torch.testing.assert_close(p[0], torch.full((3, 2, 2), 1 / 3))
    torch.testing.assert_close(p[1, :2], torch.full((2, 2, 2), 1 / 2))
    assert p[1, 2].max() < 1e-12


def test_the_loss_falls_towards_the_target_and_heeds_weight():
    slot, weight = torch.tensor([[[0, 1, 255]]]), torch.ones(1, 1, 3)
    right, wrong = (
        agreement_loss(log_p([[[a, b, 0.5]]]), slot, weight, 0.5) for a, b in ((0.1, 0.9), (0.9, 0.1))
    )
    assert right < wrong
    undecided = [agreement_loss(log_p([[[0.1, 0.9, c]]]), slot, weight, 0.5) for c in (0.01, 0.99)]
    assert undecided[0] == undecided[1]
    assert agreement_loss(log_p([[[0.9, 0.1, 0.5]]]), slot, 0 * weight, 0.5) == 0


def test_foreground_counts_as_asked_whatever_its_size():
    slot = torch.zeros(1, 10, 10, dtype=torch.long)
    slot[0, 0, 0] = 1
    missed = log_p(np.full((1, 10, 10), 0.2))
    expected = 0.5 * -np.log(0.2) + 0.5 * -np.log(0.8)
    assert agreement_loss(missed, slot, torch.ones(1, 10, 10), 0.5).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_two_views_of_one_thing_are_consistent_once_turned_upright():
    upright = np.random.default_rng(0).uniform(0.1, 0.9, (6, 6))
    turns = (0, 3)
    seen = np.stack([upright, np.rot90(upright[:, ::-1], 2)])
    everywhere = torch.ones(2, 6, 6, dtype=torch.bool)
    assert consistency_loss(log_p(seen), everywhere, turns).item() == pytest.approx(0, abs=1e-10)
    assert consistency_loss(log_p(seen), everywhere, (0, 0)) > 0.001
    assert consistency_loss(log_p(seen), ~everywhere, (0, 0)) == 0


def test_balance_runs_from_the_natural_share_to_a_half():
    patches = collect(RECORDS, QUICK)
    natural, between, even = (foreground_share(patches, balance) for balance in (0.0, 0.5, 1.0))
    assert natural < between < even == 0.5


def test_steps_stay_within_bounds_and_the_rate_ends_at_nothing():
    recipe = FusionRecipe(epochs=1, batch=8, min_steps=10, max_steps=50)
    assert [steps_of(n, recipe) for n in (1, 100, 1000)] == [10, 25, 50]
    rates = [schedule(step, 100) for step in range(100)]
    assert max(rates) == 1
    assert rates[0] < 0.5
    assert rates[-1] < 0.01


def test_no_network_learns_from_the_images_that_it_fuses():
    patches = collect(RECORDS, QUICK)
    for fold in range(FOLDS):
        assert {patch.fold for patch in others(patches, fold)} == {1 - fold}
    alone = [patch for patch in patches if patch.fold == 0]
    assert others(alone, 0) is alone


def test_a_fold_is_untouched_by_its_own_images(tmp_path):
    """Changing an image changes the weights of the network that does not fuse it, and only those.

    So with the look. Bound and trust are a number for all images of a fold, measured on them, as they were not trained on.
    """
    changed = [dict(record) for record in RECORDS]
    changed[0]["image"] = 255 - changed[0]["image"]
    fold = fold_of(changed[0]["sha256"])
    before, after = (_trained(records, tmp_path / name) for records, name in ((RECORDS, "a"), (changed, "b")))
    for tensors in (before, after):
        assert all(0 <= tensors.pop(f"nets.{n}.bound") <= BOUND for n in range(FOLDS))
        for name in ("trust", "confirmed"):
            assert all(0 <= tensors.pop(f"appearances.{n}.{name}") <= 1 for n in range(FOLDS))
    same = [name for name in before if torch.equal(before[name], after[name])]
    for part, changes in (("nets", "stem"), ("appearances", "narrow")):
        own = [name for name in before if name.startswith(f"{part}.{fold}.")]
        assert own
        assert set(own) <= set(same)
        assert not [name for name in same if name.startswith(f"{part}.{1 - fold}.{changes}")]


def _trained(records, folder, recipe=QUICK):
    train_fusion(records, recipe, out=folder / "out.safetensors", state=folder / "state", save_every=2)
    return load_checkpoint(folder / "out.safetensors")[0]


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training by a recipe that nothing disturbs: its folder, its digest, what it told. Each is done once."""
    known = {}

    def train(recipe):
        if recipe not in known:
            folder, told = tmp_path_factory.mktemp("undisturbed"), []
            digest = train_fusion(
                RECORDS, recipe, out=folder / "out.safetensors", state=folder,
                report=lambda *each: told.append(each),
            )  # fmt: skip
            known[recipe] = folder, digest, told
        return known[recipe]

    return train


def killed_and_taken_up(folder, recipe, moment, save_every):
    """The folder and the digest of a training that was killed at a moment and goes on."""

    def kill(done, total, loss, unit):
        if (done, unit) == moment:
            raise KilledError

    where = {"out": folder / "out.safetensors", "state": folder, "save_every": save_every}
    with pytest.raises(KilledError):
        train_fusion(RECORDS, recipe, **where, report=kill)
    return folder, train_fusion(RECORDS, recipe, **where)


def log_and_digest(folder, digest, *_):
    return (folder / "fusion.jsonl").read_text(), digest


@pytest.mark.parametrize("moment", [(1, "steps of the look"), (1, STEPS), (3, STEPS), (6, STEPS)])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path, undisturbed, moment):
    killed = killed_and_taken_up(tmp_path, QUICK, moment, save_every=2)
    assert log_and_digest(*killed) == log_and_digest(*undisturbed(QUICK))


LONG = replace(QUICK, min_steps=30, max_steps=30)
IDLE = replace(LONG, lr=1e-9, patience=0.1)


def steps_told(path):
    return json.loads(load_checkpoint(path)[1][KIND])["steps"]


def test_a_training_whose_loss_cannot_fall_ends_early_and_says_so(undisturbed, monkeypatch):
    monkeypatch.setattr(patience, "LEAST", 3)
    folder, _, told = undisturbed(IDLE)
    assert list(dict.fromkeys(unit for *_, unit in told)) == [
        "images read", "steps of the look", "images read again", STEPS,
    ]  # fmt: skip
    assert [each[:2] for each in told if each[3] == "steps of the look"][-1] == (looks(IDLE),) * 2
    seen = [each[:2] for each in told if each[3] == STEPS]
    assert seen[-1] == (60, 60)  # bars finish
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    taken = [
        int(told.split(" of 30: nothing improved after ")[0])
        for told in steps_told(folder / "out.safetensors")
    ]
    assert sum(taken) == len(seen)
    assert all(15 <= steps < 30 for steps in taken)
    logged = [json.loads(line) for line in (folder / "fusion.jsonl").read_text().splitlines()]
    assert [max(e["step"] for e in logged if e["fold"] == n) for n in range(FOLDS)] == taken


def test_a_training_that_improves_takes_all_its_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "LEAST", 3)
    steady = replace(LONG, consistency=0.0)  # which ruins the networks of so few patches
    train_fusion(RECORDS, steady, out=tmp_path / "out.safetensors", state=tmp_path)
    assert steps_told(tmp_path / "out.safetensors") == ["30", "30"]


@pytest.mark.parametrize("moment", [12, 30, 43, 60])  # 30 and 60: when a fold has just ended early
def test_a_killed_training_ends_early_at_the_same_steps(tmp_path, monkeypatch, undisturbed, moment):
    monkeypatch.setattr(patience, "LEAST", 3)
    killed = killed_and_taken_up(tmp_path, IDLE, (moment, STEPS), save_every=7)
    assert log_and_digest(*killed) == log_and_digest(*undisturbed(IDLE))


def test_a_state_of_other_data_is_not_taken_up(tmp_path):
    fresh = _trained(RECORDS[:4], tmp_path / "fresh")
    _trained(RECORDS, tmp_path / "used")
    again = _trained(RECORDS[:4], tmp_path / "used")
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)


def test_records_are_read_twice_and_in_order(tmp_path):
    class Watched:
        seen: list[int] = []  # noqa: RUF012

        def __len__(self):
            return len(RECORDS)

        def __getitem__(self, n):
            self.seen.append(n)
            return RECORDS[n]

    _trained(Watched(), tmp_path)
    assert Watched.seen == 2 * list(range(len(RECORDS))), "once for the look, once for the patches"


def test_a_large_set_keeps_to_its_memory():
    recipe = FusionRecipe(crop=32, crops=4, patches_mb=1, batch=4)
    patches = collect(RECORDS * 40, recipe)
    assert 0 < len(patches) <= 1e6 / (32**2 * 14)


def test_nothing_to_learn_from_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no images to learn from"):
        train_fusion([], QUICK, out=tmp_path / "o", state=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"drop_all": 0.6}, "expected at most 1"), ({"batch": 3}, "even"), ({"crop": 30}, "of 8")],
)
def test_recipes_that_cannot_work_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        FusionRecipe(**wrong)


def test_it_learns_to_look_at_the_image(tmp_path):
    """With CAM and SAM silent it tells the disc from its ground, on surfaces that it was not trained on."""
    data = [surface(seed) for seed in range(24)]
    recipe = FusionRecipe(
        min_steps=60, max_steps=60, batch=8, crop=48, crops=1, drop_cam=0.1, drop_sam=0.1, drop_all=0.6
    )
    train_fusion([r for r, _ in data], recipe, out=tmp_path / "f.safetensors", state=tmp_path)
    model = load_fusion(tmp_path / "f.safetensors")
    for net in model.nets:
        net.bound.fill_(BOUND)  # whether it is heard depends on what else is known: here the look says it all
    silence = np.broadcast_to(np.reshape(UNSAID, (1, 4, 1, 1)), (1, 4, 48, 48))
    told = {"own": [], "shuffled": []}
    for n, (record, disc) in enumerate(data):
        for name, image in (("own", record["image"]), ("shuffled", data[n - 1][0]["image"])):
            p = probabilities(model, image, silence, fold_of(record["sha256"]))[1]
            told[name].append(p[disc].mean() - p[~disc].mean())
    assert np.mean(told["own"]) > 0.2
    assert np.mean(told["own"]) > 2 * np.mean(told["shuffled"])


def test_the_state_goes_round():
    patches = collect(RECORDS, QUICK)
    first, second = (Fold(patches, QUICK, 0, torch.device("cpu")) for _ in range(2))
    first.advance("float32")
    second.restore(first.state())
    assert first.advance("float32") == second.advance("float32")


def test_nobody_judges_the_look_of_what_taught_it(monkeypatch):
    taught, trusted, asked = [], [], []

    def teach(lessons, classes, **how):
        taught.append((lessons, classes, how["seed"]))
        return Appearance(8, classes)

    def trust_in(net, taught_by, unseen):
        trusted.append((taught_by, unseen))
        return np.array([0.25], np.float32)

    monkeypatch.setattr(fusion_records, "teach", teach)

    def confirmed_in(net, unseen):
        asked.append(unseen)
        return np.array([0.5], np.float32)

    monkeypatch.setattr(fusion_records, "trust_in", trust_in)
    monkeypatch.setattr(fusion_records, "confirmed_in", confirmed_in)
    lessons, folds = lessons_of(RECORDS, QUICK)
    found = appearances(parted(lessons, folds), QUICK, torch.device("cpu"))
    for fold, (others_, classes, seed) in enumerate(taught):
        own = {one.feature.tobytes() for one, of in zip(lessons, folds, strict=True) if of == fold}
        foreign = {one.feature.tobytes() for one in others_}
        assert own
        assert foreign
        assert not own & foreign
        assert trusted[fold][0] is others_
        assert {one.feature.tobytes() for one in trusted[fold][1]} == own
        assert asked[fold] is trusted[fold][1]
        assert (classes, seed) == (1, fold)
    assert [net.trust.tolist() for net in found] == [[0.25]] * FOLDS
    assert [net.confirmed.tolist() for net in found] == [[0.5]] * FOLDS
    assert parted(lessons, [0] * len(lessons)) == []
    assert len(taught) == FOLDS, "where nobody else is there to teach, nobody judges"


def test_a_set_of_one_fold_is_fused_without_a_look(tmp_path):
    alone = [record for record in RECORDS if fold_of(record["sha256"]) == 0]
    train_fusion(alone, QUICK, out=tmp_path / "f.safetensors", state=tmp_path)
    model = load_fusion(tmp_path / "f.safetensors")
    assert [model.appearance(fold) for fold in range(FOLDS)] == [None] * FOLDS


def test_lessons_keep_to_the_memory():
    lessons, _ = lessons_of(RECORDS * 40, replace(QUICK, patches_mb=0.01))
    size = sum(part.nbytes for part in lessons[0])
    assert 1 < len(lessons) <= 1 + 0.01e6 / size


def test_the_look_travels_in_the_checkpoint_and_tells_disc_from_ground(tmp_path):
    data = [surface(seed) for seed in range(24)]
    train_fusion([r for r, _ in data], QUICK, out=tmp_path / "f.safetensors", state=tmp_path)
    model = load_fusion(tmp_path / "f.safetensors")
    told = []
    for record, disc in data:
        net = model.appearance(fold_of(record["sha256"]))
        silent = np.zeros(disc.shape)
        seen = look(net, record["feature"], record["image"], np.ones(1, np.uint8), record["mean"], silent)[0]
        told.append(seen[disc].mean() - seen[~disc].mean())
    assert np.mean(told) > 0.3
