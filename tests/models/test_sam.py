"""Building and running any Sam."""

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from models.checkpoints import digest, load_checkpoint, sam_checkpoint, sam_digest, save_checkpoint
from models.sam import build_sam, encode, encode_each
from models.sam_shapes import SIDE, TINY_WEIGHTS


def small_vit(checkpoint=None):
    """The official architecture, reduced: two blocks, one with windows and one global, at 64 pixels."""
    return Sam(
        ImageEncoderViT(
            img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=16, window_size=3,
            global_attn_indexes=(1,), use_rel_pos=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4),
        MaskDecoder(transformer_dim=16, transformer=TwoWayTransformer(1, 16, 2, 32), iou_head_hidden_dim=16),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )  # fmt: skip


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A file in the official format, and the Sam whose weights it holds."""
    monkeypatch.setitem(sam_model_registry, "vit_b", small_vit)
    torch.manual_seed(0)
    sam = small_vit().eval()
    path = tmp_path / "sam.pth"
    torch.save(sam.state_dict(), path)
    return path, sam


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """A file with the keys and shapes of the published vit_b, 375 MB, and what it holds."""
    with torch.device("meta"):
        shapes = sam_model_registry["vit_b"]().state_dict()
    torch.manual_seed(0)
    weights = {name: torch.rand(meta.shape) for name, meta in shapes.items()}
    path = tmp_path_factory.mktemp("published") / "sam_vit_b_01ec64.pth"
    torch.save(weights, path)
    yield path, weights
    path.unlink()


def test_a_file_of_the_published_format_is_loaded_whole(full_size):
    path, weights = full_size
    loaded = build_sam("vit_b", path).state_dict()
    assert len(loaded) == len(weights) == 314
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_a_sound_file_of_another_official_model_is_refused_by_its_name(full_size):
    path, _ = full_size
    with pytest.raises(ValueError, match="this is a vit_b SAM, but vit_l was asked for") as error:
        build_sam("vit_l", path)
    assert "\n" not in str(error.value)


def test_a_truncated_file_of_the_published_format_is_refused(full_size, tmp_path):
    path = tmp_path / "sam.pth"
    with full_size[0].open("rb") as whole:
        path.write_bytes(whole.read(100_000_000))
    with pytest.raises(ValueError, match=r"sam.pth: this is no whole file of plain weights") as error:
        build_sam("vit_b", path)
    assert "\n" not in str(error.value)
    path.unlink()


def padded(image, side):
    frame = np.full((side, side, 3), 77, np.uint8)  # what stands in the padding must not matter
    frame[: image.shape[0], : image.shape[1]] = image
    return frame[None], np.array([image.shape[:2]])


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 75), (40, SIDE)])
def test_encode_equals_the_official_predictor(size):
    sam = build_sam("tiny")
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    embedding = encode(sam, *padded(image, SIDE), "float32")
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding, predictor.get_image_embedding().numpy())


def test_an_official_checkpoint_gives_the_official_model(official):
    path, reference = official
    sam = build_sam("vit_b", path)
    image = np.random.default_rng(2).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    predictor = SamPredictor(reference)
    predictor.set_image(image)
    theirs = predictor.get_image_embedding().numpy()
    found = encode(sam, *padded(image, 64), "float32")
    np.testing.assert_allclose(found, theirs, atol=1e-5 * np.abs(theirs).max())
    for ours, theirs in zip(sam.buffers(), reference.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert not sam.training


def test_bfloat16_is_near_float32():
    sam = build_sam("tiny")
    image = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    exact, reduced = (encode(sam, *padded(image, SIDE), p) for p in ("float32", "bfloat16"))
    assert reduced.dtype == np.float32
    assert not np.array_equal(exact, reduced)
    assert np.linalg.norm(exact - reduced) < 0.05 * np.linalg.norm(exact)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_back_in_order_as_if_each_were_alone(device):
    sam, rng = build_sam("tiny", device=device), np.random.default_rng(4)
    calls = [
        padded(rng.integers(0, 256, (rows, SIDE, 3), dtype=np.uint8), SIDE) for rows in (SIDE, 40, 90, 7)
    ]
    found = list(encode_each(sam, iter(calls), "float32", half=True))
    for call, embedding in zip(calls, found, strict=True):
        np.testing.assert_array_equal(embedding, encode(sam, *call, "float32", half=True))
        assert embedding.flags.c_contiguous, "a store would copy it"
    assert list(encode_each(sam, [], "float32")) == []


def test_a_checkpoint_of_another_model_is_refused(official):
    path, _ = official
    with pytest.raises(ValueError, match=r"not part of it|is missing"):
        build_sam("vit_b", _saved_without_one_tensor(path))
    with pytest.raises(ValueError, match=r"tiny_sam.safetensors, as a vit_b SAM: .* give this model's own"):
        build_sam("vit_b", TINY_WEIGHTS)


def _saved_without_one_tensor(path):
    weights = torch.load(path, weights_only=True)
    weights.pop("mask_decoder.iou_token.weight")
    other = path.with_name("other.pth")
    torch.save(weights, other)
    return other


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path):
    weights, _ = load_checkpoint(TINY_WEIGHTS)
    weights["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    path = tmp_path / "wrong.safetensors"
    save_checkpoint(path, weights, {})
    with pytest.raises(ValueError, match=r"mask_decoder.iou_token.weight is \(1, 7\), expected \(1, 128\)"):
        build_sam("tiny", path)


def test_digests_are_those_of_the_files(official):
    path, _ = official
    assert sam_digest("vit_b", path) == digest(path)
    assert sam_digest("tiny") == digest(sam_checkpoint("tiny")) == digest(TINY_WEIGHTS)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'vit_x' is not known; choose one of tiny, vit_b"):
        build_sam("vit_x")


@pytest.mark.parametrize(
    ("shape", "sizes", "precision", "named"),
    [
        ((1, 64, 64, 3), [[64, 64]], "float32", r"\(1, 64, 64, 3\)"),
        ((1, SIDE, SIDE, 3), [[SIDE + 1, 5]], "float32", f"{SIDE + 1}"),
        ((2, SIDE, SIDE, 3), [[5, 5]], "float32", r"\(2, 2\)"),
        ((1, SIDE, SIDE, 3), [[5, 5]], "float16", "float16"),
    ],
)
def test_encode_names_what_is_wrong(shape, sizes, precision, named):
    sam = build_sam("tiny")
    with pytest.raises(ValueError, match=named):
        encode(sam, np.zeros(shape, np.uint8), np.array(sizes), precision)
