from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.cams import activate, fitted, joined, letterbox, shared, smoothed_maximum
from models.start import Start, load_start, objectness, standardise
from models.surfaces import generate
from models.vit import (
    ClassTokenViT,
    Evidence,
    build_vit,
    distillation_loss,
    load_vit,
    multi_label_loss,
    save_vit,
)

ALL = np.ones(3, bool)


@pytest.fixture(scope="module")
def model() -> ClassTokenViT:
    return build_vit("tiny", 3, side=64, objectness=True).eval()


@pytest.fixture(scope="module")
def start() -> Start:
    return load_start()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_class_tokens_begin_distinct(model):
    tokens = (model.class_token + model.class_position)[0].detach()
    distances = torch.cdist(tokens, tokens) + 1e9 * torch.eye(3)
    assert distances.min() > 1e-3


def test_tokens_of_padding_are_masked_out_of_attention(model):
    image, valid = noise(1, 3, 64, 128), torch.ones(1, 64, 128, dtype=torch.bool)
    valid[:, :, 64:] = False
    far = image.clone()
    far[:, :, :, 112:] += 5  # beyond the reach of the stem's convolutions, so attention alone could bring it
    with torch.no_grad():
        masked, changed, free, freed = model(image, valid), model(far, valid), model(image), model(far)
    for name in ("token", "patch", "auxiliary"):
        torch.testing.assert_close(getattr(masked, name), getattr(changed, name))
    assert not masked.valid[:, :, 8:].any()
    assert (free.token - freed.token).abs().max() > 1e-3


def test_class_tokens_attend_where_the_start_sees_something(model):
    bias = model._attention_bias(
        torch.ones(1, 4, dtype=torch.bool), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), 7
    )
    assert bias is not None
    to_patches = bias[0, 0, :3, 3:].exp()
    assert (to_patches[:, 1] > 50 * to_patches[:, 0]).all()
    assert (bias[0, 0, 3:] == 0).all()  # patches attend to each other freely


def test_evidence_counts_where_objectness_lies(model):
    image = noise(1, 3, 64, 64)
    left = torch.zeros(1, 64, 64)
    left[:, :, :16] = 1
    with torch.no_grad():
        one = model(image, None, left)
    inside, outside = one.patch_map[..., :2].mean((2, 3)), one.patch_map[..., 2:].mean((2, 3))
    assert ((one.patch - inside).abs() < 0.2 * (one.patch - outside).abs() + 0.05).all()


def test_position_embeddings_are_interpolated_to_any_size(model):
    for height, width in ((32, 96), (64, 64), (104, 40)):
        evidence = model(noise(1, 3, height, width))
        assert evidence.patch_map.shape == (1, 3, height // 8, width // 8)


def test_the_loss_falls_when_the_present_class_is_found(model):
    evidence = model(noise(2, 3, 64, 64))
    label = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    better = replace(evidence, token=evidence.token + 3 * (2 * label - 1))
    assert multi_label_loss(better, label) < multi_label_loss(evidence, label)


def test_a_checkpoint_brings_back_the_same_network(model, tmp_path: Path):
    model.tau.copy_(torch.tensor([0.1, 0.2, 0.3]))
    digest = save_vit(tmp_path / "vit.safetensors", model, {"note": "kept"})
    assert {save_vit(tmp_path / "same.safetensors", model, {"note": "kept"}) for _ in range(5)} == {digest}
    again = load_vit(tmp_path / "vit.safetensors")
    assert len(digest) == 64
    assert (again.side, again.classes, again.name) == (64, 3, "tiny")
    image = generate(3, 60).image
    one, two = (activate(m, image, ALL, scales=(1.0,), flip=False) for m in (model, again))
    assert np.array_equal(one.cam, two.cam)
    assert np.array_equal(one.score, two.score)
    assert torch.equal(again.tau, model.tau)


def test_a_file_that_is_no_such_checkpoint_is_refused(tmp_path: Path):
    from models.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="no checkpoint of the CAM branch"):
        load_vit(tmp_path / "other.safetensors")


def test_any_timm_vit_serves_as_backbone():
    vit = build_vit("vit_tiny_patch16_224", 2, side=64, objectness=False).eval()
    evidence = vit(noise(1, 3, 64, 48))
    assert evidence.patch_map.shape == (1, 2, 4, 3)
    assert evidence.class_token.shape == (1, 2, 192)


def test_weights_of_a_timm_vit_are_read_from_a_local_file(tmp_path: Path):
    import timm

    trained = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    vit = build_vit(
        "vit_tiny_patch16_224", 2, side=64, objectness=False, pretrained=str(tmp_path / "trained.pth")
    )
    assert torch.equal(vit.backbone.blocks[3].mlp.fc1.weight, trained.blocks[3].mlp.fc1.weight)
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match="no weights of this backbone"):
        build_vit(
            "vit_tiny_patch16_224", 2, side=64, objectness=False, pretrained=str(tmp_path / "wrong.pth")
        )


def test_a_side_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match="side is 100; tiny needs a multiple of its patch, 8"):
        build_vit("tiny", 2, side=100, objectness=True)


def test_the_start_is_frozen_and_stays_in_eval(model):
    model.train()
    assert not model.start.training
    assert not any(p.requires_grad for p in model.start.parameters())
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    model.eval()


def test_standardise_takes_exposure_and_contrast_out():
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.5
    other = image * 0.7 + 0.2
    plain, changed = standardise(image), standardise(other)
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert (plain - changed).abs().max() < 0.15
    valid = torch.ones(1, 40, 40, dtype=torch.bool)
    valid[:, 20:] = False
    padded = image.clone()
    padded[:, :, 20:] = 0.9
    assert torch.allclose(standardise(padded, valid)[:, :, :20], standardise(image[:, :, :20]), atol=1e-5)


def test_the_start_sees_defects_of_images_that_it_never_saw(start):
    inside, outside = [], []
    for seed in range(2_000_000_000, 2_000_000_012):
        surface = generate(seed, 128, kind="blob", defects=3)
        found, truth = objectness(start, surface.image), surface.instances.any(0)
        inside.append(found[truth].mean())
        outside.append(found[~truth].mean())
    assert np.mean(inside) > 0.5
    assert np.mean(outside) < 0.1


def test_objectness_is_mirrored_with_the_image(start):
    image = generate(11, 96).image
    found, mirrored = objectness(start, image), objectness(start, image[:, ::-1])
    assert found.shape == (96, 96)
    assert np.abs(found - mirrored[:, ::-1]).max() < 1e-4


@pytest.mark.parametrize("size", [(37, 81), (16, 300), (700, 90), (5, 5)])
def test_objectness_of_any_size(start, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = objectness(start, image)
    assert found.shape == size
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()


def test_letterbox_keeps_proportions_and_mirrors_within_its_extent():
    image = np.random.default_rng(1).integers(0, 255, (30, 60, 3), dtype=np.uint8)
    box = letterbox(image, np.ones((30, 60), np.float32), 64, 8, square=True)
    assert fitted((30, 60), 64) == (32, 64)
    assert box.image.shape == (1, 3, 64, 64)
    assert bool(box.valid[0, :32].all())
    assert not box.valid[0, 32:].any()
    tall = letterbox(image.transpose(1, 0, 2).copy(), None, 64, 8, square=True)
    twice = tall.mirrored().mirrored()
    assert torch.equal(twice.image, tall.image)
    assert torch.equal(tall.mirrored().image[..., :32], tall.image[..., :32].flip(-1))


def test_one_outlier_alone_makes_no_maximum():
    cam = np.full((20, 20), 0.1, np.float32)
    cam[5, 5] = 1
    assert smoothed_maximum(cam) < 0.25
    cam[4:7, 4:7] = 1
    assert smoothed_maximum(cam) == pytest.approx(1)


@pytest.mark.parametrize("head", ["token", "patch", "auxiliary"])
def test_the_score_is_the_mean_probability_of_all_three_heads(model, monkeypatch, head):
    image, forward = generate(21, 64).image, type(model).forward

    def score():
        return activate(model, image, ALL, scales=(1.0,), flip=False).score

    def certain(self, *given, **how):
        evidence = forward(self, *given, **how)
        undecided = {name: torch.zeros_like(evidence.token) for name in ("token", "patch", "auxiliary")}
        return replace(evidence, **(undecided | {head: torch.full_like(evidence.token, 30.0)}))

    monkeypatch.setattr(type(model), "forward", certain)
    np.testing.assert_allclose(score(), (1 + 0.5 + 0.5) / 3, rtol=1e-6)


def test_the_score_is_that_of_the_scale_nearest_to_the_one_it_learned_at(model):
    image = generate(21, 96, kind="blob", defects=3).image

    def seen(*scales):
        return activate(model, image, ALL, scales=scales, flip=True)

    every, alone = seen(0.5, 1.0, 1.5), seen(1.0)
    np.testing.assert_array_equal(every.score, alone.score)
    assert not np.array_equal(every.cam, alone.cam)
    np.testing.assert_array_equal(seen(0.25, 0.75).score, seen(0.75).score)
    assert not np.array_equal(alone.score, seen(0.75).score)


def test_a_cam_lies_where_the_start_sees_something(model):
    surface = generate(21, 96, kind="blob", defects=3)
    seen = activate(model, surface.image, np.array([True, False, True]), scales=(0.5, 1.0), flip=True)
    found = objectness(model.start, surface.image)
    assert seen.cam.shape == (3, 96, 96)
    assert seen.score.shape == (3,)
    assert (seen.cam <= found[None] + 1e-6).all()
    assert (seen.cam >= 0).all()
    assert (seen.cam[1] == 0).all(), "the label does not name it"
    assert seen.cam[0].any()


def evidence_of(patch_map: torch.Tensor, weight: torch.Tensor) -> Evidence:
    nothing = torch.zeros(len(patch_map), patch_map.shape[1])
    valid = torch.ones_like(weight, dtype=torch.bool)
    return Evidence(nothing, nothing, nothing, patch_map, patch_map, nothing, valid, weight)


def test_distillation_rewards_any_of_the_image_s_classes_and_only_where_objectness_is_sure():
    weight = torch.tensor([[[0.9, 0.5, 0.1]]])  # defect, unsure, bare
    label = torch.tensor([[1.0, 1.0, 0.0]])
    maps = torch.tensor(
        [[[[8.0, 0, -8]], [[-8.0, 0, -8]], [[8.0, 8, 8]]]]
    )  # the third class is not in the label
    assert distillation_loss(evidence_of(maps, weight), label, 0.25, 0.7) < 1e-2
    unsure = maps.clone()
    unsure[..., 1] += 5
    torch.testing.assert_close(
        distillation_loss(evidence_of(unsure, weight), label, 0.25, 0.7),
        distillation_loss(evidence_of(maps, weight), label, 0.25, 0.7),
    )
    assert distillation_loss(evidence_of(-maps, weight), label, 0.25, 0.7) > 5
    assert distillation_loss(evidence_of(maps, weight), 0 * label, 0.25, 0.7) == 0


def test_distillation_lets_one_tiny_defect_weigh_as_much_as_all_that_is_bare():
    weight, maps = torch.zeros(1, 10, 10), torch.full((1, 1, 10, 10), -8.0)
    weight[0, 0, 0] = 1
    missed = distillation_loss(evidence_of(maps, weight), torch.ones(1, 1), 0.25, 0.7)
    assert missed == pytest.approx(4, abs=0.1)  # half of 8, however few patches


def test_objectness_draws_what_is_narrow_and_the_patch_map_what_is_wide():
    ground, scratch = np.zeros((160, 160), np.float32), np.zeros((160, 160), np.float32)
    scratch[:, 80:83] = 1
    near = np.asarray(cv2.dilate(scratch, np.ones((17, 17))), np.float32)
    assert np.array_equal(joined(near, scratch, 160, 8) > 0.5, scratch > 0.5)
    missed = joined(near, ground, 160, 8)
    assert missed.max() == 0, "a patch map alone does not invent a narrow defect"
    wide, other = ground.copy(), ground.copy()
    wide[:, :90], other[:, 110:] = 1, 1  # the image took the bare right for the defect
    found = joined(wide, other, 160, 8)
    assert (found[:, :85] > 0.5).all()
    assert (found[:, 110:] == 0).all()


def test_with_one_class_in_the_label_a_weak_class_takes_nothing_from_a_sure_defect():
    objects = np.zeros((1, 64, 64), np.float32)
    objects[0, 20:40, 20:40] = 0.9
    weak = np.full((1, 64, 64), 0.3, np.float32)
    alone = shared(weak, objects[0], 64, 8)
    assert (alone[0, 20:40, 20:40] > 0.45).all()
    np.testing.assert_allclose(alone[0], joined(weak[0], objects[0], 64, 8), atol=1e-6)


def test_classes_of_one_label_share_a_defect_by_what_the_patches_say():
    objects, patches = np.ones((64, 64), np.float32), np.zeros((2, 64, 64), np.float32)
    patches[0], patches[1, :, 32:] = 0.4, 0.8
    found = shared(patches, objects, 64, 8)
    np.testing.assert_allclose(found.sum(0), joined(patches.max(0), objects, 64, 8), atol=1e-5)
    assert (found[0, :, :30] > 0.6).all()
    assert (found[1, :, 34:] > 0.6).all()


def test_a_distilled_network_gives_cams_to_the_labels_classes_alone():
    distilled = build_vit("tiny", 3, side=64, objectness=True, distilled=True).eval()
    image = generate(21, 96, kind="blob", defects=3).image
    found = {
        name: activate(distilled, image, np.array(label), scales=(1.0,), flip=False).cam
        for name, label in {
            "two": [True, False, True],
            "one": [True, False, False],
            "none": [False] * 3,
        }.items()
    }
    assert (found["none"] == 0).all()
    assert (found["two"][1] == 0).all()
    assert (found["one"][1:] == 0).all()
    assert (found["one"][0] >= found["two"][0] - 1e-6).all(), "alone, it shares with nobody"


def test_a_patch_map_that_knows_nothing_invents_nothing():
    nothing = np.zeros((160, 160), np.float32)
    assert joined(np.full_like(nothing, 0.5), nothing, 160, 8).max() == 0


@pytest.mark.parametrize(("sure", "said"), [(0.6, 0.24), (0.75, 0.75), (0.9, 0.9)])
def test_a_patch_map_is_believed_alone_the_more_the_surer_it_is(sure, said):
    nothing = np.zeros((160, 160), np.float32)
    np.testing.assert_allclose(joined(np.full_like(nothing, sure), nothing, 160, 8), said, atol=1e-5)
