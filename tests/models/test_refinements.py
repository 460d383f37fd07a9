import numpy as np
import pytest
import torch
from timm.layers.attention import Attention

from models.cams import activate
from models.refinements import adapted, attention_of, refined
from models.vit import build_vit


@pytest.fixture(scope="module")
def vit():
    torch.set_num_threads(1)
    return build_vit("tiny", 2, side=64, objectness=True, seed=0).eval()


def test_attention_is_what_the_block_itself_computes(vit):
    block = vit.backbone.blocks[0]
    tokens = torch.randn(2, 7, vit.backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    bias = torch.zeros(2, 1, 7, 7)
    bias[..., 5] = -torch.inf
    with torch.no_grad():
        found = attention_of(block, tokens, bias)
        assert isinstance(block.attn, Attention)
        x = block.norm1(tokens)
        qkv = block.attn.qkv(x).reshape(2, 7, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        heads = found.new_zeros(2, block.attn.num_heads, 7, 7)
        for h in range(block.attn.num_heads):
            heads[:, h] = (qkv[0][:, h] @ qkv[1][:, h].mT * block.attn.scale + bias[:, 0]).softmax(-1)
    torch.testing.assert_close(found, heads.mean(1))
    torch.testing.assert_close(found.sum(2), torch.ones(2, 7))
    assert (found[..., 5] == 0).all()


def maps():
    """One class that is sure of the left half of 2 × 4 patches; attention of 1 class token and 8 patches."""
    logits = torch.tensor([[[[4.0, 4, -4, -4], [4, 4, -4, -4]]]])
    return logits, torch.full((1, 9, 9), 1 / 9)


def test_a_class_token_that_looks_elsewhere_takes_the_class_away():
    logits, attention = maps()
    attention[0, 0] = 0.01
    attention[0, 0, 1] = 0.9  # the class token attends to the first patch
    found = refined(logits, attention, 1, attend=True, spread=False)
    assert found[0, 0, 0, 0] > 3.9
    assert (found[0, 0].flatten()[1:] < -3).all()


def test_patches_that_attend_to_each_other_agree():
    logits, attention = maps()
    attention[0, 1:, 1:] = torch.eye(8)
    attention[0, 1, 3] = attention[0, 3, 1] = 1.0  # the first of the left with the first of the right
    found = refined(logits, attention, 1, attend=False, spread=True).sigmoid()
    assert found[0, 0, 0, 2] == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(found[0, 0, 1], logits[0, 0, 1].sigmoid(), atol=1e-4, rtol=0)


def test_colours_bring_a_rough_map_to_the_borders_of_the_image():
    image = np.full((40, 40, 3), 180, np.uint8)
    image[10:25, 12:30] = 60
    truth = image[..., 0] < 100
    rough = np.zeros((1, 40, 40), np.float32)
    rough[0, 12:28, 8:28] = 1  # shifted
    found = adapted(rough, image)

    def iou(guess):
        return (guess & truth).sum() / (guess | truth).sum()

    assert iou(found[0] > 0.5) > iou(rough[0] > 0.5) + 0.1
    assert found.min() >= 0
    assert found.max() <= 1


def test_each_switch_changes_the_cam_and_nothing_else(vit):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    plain = activate(vit, image, np.ones(2, bool), scales=(1.0,), flip=True)
    for switch in ("attention", "affinity", "adaptive"):
        other = activate(vit, image, np.ones(2, bool), scales=(1.0,), flip=True, **{switch: True})
        assert other.cam.shape == plain.cam.shape
        assert np.isfinite(other.cam).all()
        assert (other.cam != plain.cam).any()
        np.testing.assert_allclose(other.score, plain.score, atol=1e-5)


def test_a_sure_patch_keeps_a_finite_logit_in_16_bits():
    logits = torch.full((1, 1, 2, 4), 9.0)
    with torch.autocast("cpu", torch.bfloat16):
        for how in ({"attend": True, "spread": False}, {"attend": False, "spread": True}):
            found = refined(logits, torch.rand(1, 9, 9), 1, **how)
            assert found.isfinite().all()
