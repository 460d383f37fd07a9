import numpy as np
import pytest
import torch

from models.checkpoints import save_checkpoint
from models.fusion import (
    CHANNELS,
    EVIDENCE,
    REACH,
    UNSAID,
    Fusion,
    FusionNet,
    FusionShape,
    fold_of,
    load_fusion,
    logits,
    metadata_of,
    planes,
    probabilities,
    reflect,
    said_of,
    turned,
    turned_back,
)
from models.photometry import contrast

SMALL = FusionShape((4, 6, 8, 8))


@pytest.fixture
def model():
    """Networks in which every weight matters: those that start at 0 are drawn too."""
    torch.manual_seed(0)
    fusion = Fusion(SMALL)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return fusion.eval()


def picture(height=40, width=52, slots=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.random(
        (slots, len(EVIDENCE), height, width), np.float32
    )


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (33, 50), (1, 3)])
def test_any_size_gives_a_distribution_at_each_pixel(model, size):
    share = probabilities(model, *picture(*size), 0)
    assert share.shape == (3, *size)
    assert share.dtype == np.float32
    np.testing.assert_allclose(share.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("view", range(8))
def test_turned_back_undoes_turned(view):
    x = np.arange(2 * 5 * 7).reshape(2, 5, 7)
    np.testing.assert_array_equal(turned_back(turned(x, view), view), x)


def test_the_eight_turns_differ():
    x = np.arange(9).reshape(3, 3)
    assert len({turned(x, view).tobytes() for view in range(8)}) == 8


def test_eight_views_make_it_indifferent_to_turns(model):
    image, evidence = picture(24, 32)
    share = probabilities(model, image, evidence, 0, views=8)
    rotated = probabilities(model, np.rot90(image), np.rot90(evidence, axes=(-2, -1)), 0, views=8)
    np.testing.assert_allclose(np.rot90(share, axes=(-2, -1)), rotated, atol=1e-4)


def test_slots_share_one_network(model):
    image, evidence = picture(slots=2)
    share, swapped = (probabilities(model, image, e, 0) for e in (evidence, evidence[::-1]))
    np.testing.assert_allclose(share[[0, 2, 1]], swapped, atol=1e-5)


def test_of_a_marked_class_the_convolutions_say_less(model):
    image, evidence = picture(slots=3)

    def odds(others):
        share = probabilities(model, image, evidence, 0, others)
        return np.log(share[1:]) - np.log(share[0])

    x = np.stack([planes(image, slot, contrast(image)) for slot in evidence])
    said, whole = said_of(torch.from_numpy(x)).numpy(), odds(None)
    assert np.abs(whole - said).max() > 0.1, "they do say something"
    found = odds(np.array([1, 0.25, 0], np.float32))
    np.testing.assert_allclose(
        found, said + np.array([1, 0.25, 0])[:, None, None] * (whole - said), atol=1e-4
    )
    np.testing.assert_array_equal(odds(np.ones(3, np.float32)), whole)


def test_networks_of_before_marks_judged_the_look_are_heard_beside_them(tmp_path):
    fusion = Fusion(SMALL, features=(4, 2))
    known = {
        name: value
        for name, value in fusion.state_dict().items()
        if not name.endswith((".confirmed", ".trust"))
    }
    save_checkpoint(tmp_path / "old.safetensors", known, metadata_of(fusion))
    again = load_fusion(tmp_path / "old.safetensors")
    assert [net.confirmed.tolist() for net in again.appearances] == [[1, 1], [1, 1]]
    assert [net.trust.tolist() for net in again.appearances] == [[1, 1], [1, 1]]


def test_each_fold_has_its_own_network(model):
    image, evidence = picture()
    assert not np.allclose(probabilities(model, image, evidence, 0), probabilities(model, image, evidence, 1))


def test_the_fold_comes_from_the_digest_alone():
    digest = np.arange(32, dtype=np.uint8)
    assert {fold_of(digest), fold_of(digest + 1)} == {0, 1}
    assert fold_of(digest) == fold_of(digest.copy())


def test_tiles_equal_the_whole(model):
    net = model.nets[0]
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, 56, 2 * REACH + 104)).astype(np.float32)
    whole, tiled = (logits(net, x, "float32", tile) for tile in (4096, 64))
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_it_sees_far_but_not_farther_than_its_reach(model):
    net = model.nets[0]
    x = np.zeros((1, CHANNELS, 16, 2 * REACH + 48), np.float32)
    changed = x.copy()
    changed[..., 0] = 100
    moved = np.abs(logits(net, changed, "float32", 4096) - logits(net, x, "float32", 4096))[0].max(0)
    assert moved[60] > 0
    assert moved[REACH + 1 :].max() == 0


def test_padding_is_a_mirror_and_only_as_much_as_needed():
    x = np.arange(5 * 16).reshape(1, 5, 16)
    framed = reflect(x)
    assert framed.shape == (1, 8, 16)
    np.testing.assert_array_equal(framed[:, 5], x[:, 3])
    assert reflect(framed) is not None
    assert reflect(framed).shape == framed.shape


def test_light_and_contrast_of_an_image_do_not_matter():
    image, evidence = picture(slots=1)
    dim = image // 4 * 2
    bright = (dim // 2 + 60).astype(np.uint8)
    a, b = (planes(i, evidence[0], contrast(i)) for i in (dim, bright))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_flat_image_stays_finite():
    image = np.full((8, 8, 3), 200, np.uint8)
    assert (planes(image, np.zeros((len(EVIDENCE), 8, 8)), contrast(image))[:3] == 0).all()


def test_it_starts_from_what_cam_and_sam_say():
    """Before any training P is CAM and SAM together, and either alone where the other says nothing."""
    net = FusionNet()
    for evidence, expected in (
        ((1, 1, 0, 0.5), 3.5), ((0, 0, 0, 0.5), -3.5), ((0.4, 1, 0, 0.5), 2.3), ((1, 0.5, 1, 0.5), 1),
        ((0.5, 1, 0, 0.5), 2.5), ((0.5, 0.5, 1, 0.75), 3), ((1, 1, 0, 0.25), 0.5), (UNSAID, 0),
    ):  # fmt: skip
        flat = np.broadcast_to(np.reshape(evidence, (4, 1, 1)), (4, 8, 8))
        image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        np.testing.assert_allclose(
            logits(net, planes(image, flat, contrast(image))[None], "float32"), expected, atol=1e-5
        )


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_image_decides_where_the_others_hardly_speak_and_never_where_they_are_sure(sign):
    net = FusionNet(SMALL)
    torch.nn.init.constant_(net.head.bias, 1e3 * sign)
    image = np.zeros((8, 8, 3), np.uint8)

    def answer(cam, mean):
        flat = np.broadcast_to(np.reshape((cam, mean, 0, 0.5), (4, 1, 1)), (4, 8, 8))
        return logits(net, planes(image, flat, contrast(image))[None], "float32")[0, 0, 0] > 0

    assert answer(1, 1)
    assert not answer(0, 0)
    assert answer(0.8, 0.4) == answer(0.2, 0.6) == answer(*UNSAID[:2]) == (sign > 0)
    assert not answer(1, 0), "SAM's word counts more than the CAM's"


def test_size_of_the_network():
    count = sum(p.numel() for p in FusionNet().parameters())
    assert 300_000 <= count <= 700_000


def test_checkpoint_brings_the_same_network_back(model, tmp_path):
    path = tmp_path / "fusion.safetensors"
    save_checkpoint(path, model.state_dict(), metadata_of(model))
    image, evidence = picture()
    again = load_fusion(path)
    assert not again.training
    np.testing.assert_array_equal(
        probabilities(again, image, evidence, 1), probabilities(model, image, evidence, 1)
    )


def test_another_networks_checkpoint_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, {"a": torch.zeros(1)}, {"kind": "vit"})
    with pytest.raises(ValueError, match=r"no fusion network .*kind"):
        load_fusion(path)


def test_bfloat16_is_close(model):
    image, evidence = picture()
    a, b = (probabilities(model, image, evidence, 0, precision=p) for p in ("float32", "bfloat16"))
    assert np.abs(a - b).max() < 0.1
