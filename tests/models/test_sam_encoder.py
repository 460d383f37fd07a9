"""The folded encoder is the official one: the same mathematics to the last digits of float64."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos

from models import sam_encoder
from models.sam_encoder import FoldedEncoder, _relative, _relative_views, folded_attention, tiled_attention


def official(grid=5, window=3, dim=24, heads=2):
    """One block with windows, which do not divide the grid, and one over all; no weight is zero."""
    torch.manual_seed(grid)
    encoder = ImageEncoderViT(
        img_size=16 * grid, patch_size=16, embed_dim=dim, depth=3, num_heads=heads, out_chans=8,
        window_size=window, global_attn_indexes=(1,), use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return encoder.eval()


@pytest.fixture(params=["tiles", "fused kernels"])
def way(request, monkeypatch):
    """Both forms of attention, whatever this machine would take."""
    monkeypatch.setattr(sam_encoder, "by_tiles", lambda _: request.param == "tiles")


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("grid", "window"), [(5, 3), (6, 3), (4, 7)])
def test_the_encoder_is_the_official_one(way, grid, window):
    encoder = official(grid, window).double()
    images = torch.randn(2, 3, 16 * grid, 16 * grid, dtype=torch.float64)
    with torch.inference_mode():
        expected = encoder(images)
        assert distance(FoldedEncoder(encoder)(images, torch.float64), expected) < 1e-13


@pytest.mark.parametrize("tile", [1, 40, 1 << 19])
@pytest.mark.parametrize("extent", [(4, 7), (6, 2)])
def test_attention_is_the_official_one_whatever_the_tile(monkeypatch, tile, extent):
    monkeypatch.setattr(sam_encoder, "TILE", tile)
    attention = Attention(30, num_heads=3, use_rel_pos=True, input_size=extent).double()
    for weight in attention.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    tokens = torch.randn(1, *extent, 30, dtype=torch.float64)
    attention.proj = torch.nn.Identity()
    with torch.inference_mode():
        expected = attention(tokens)
        split = attention.qkv(tokens).reshape(1, -1, 3, 3, 10).permute(2, 0, 3, 1, 4)
        rows = get_rel_pos(extent[0], extent[0], attention.rel_pos_h)
        columns = get_rel_pos(extent[1], extent[1], attention.rel_pos_w)
        folded = folded_attention(*split, rows, columns)[0]
        tiled = tiled_attention(*split[:, 0], rows, columns)
        both = tiled_attention(*split[:, 0], rows, columns, folded=True)
    for found in (folded, tiled, both):
        assert distance(found.transpose(0, 1).reshape(expected.shape), expected) < 1e-13


@pytest.mark.parametrize("extent", [(4, 7), (6, 2), (1, 3)])
def test_relative_positions_are_views_of_one_product(extent):
    torch.manual_seed(0)
    q, _, _ = torch.randn(2, extent[0] * extent[1], 3, 3, 10, dtype=torch.float64).permute(2, 0, 3, 1, 4)
    rows, columns = (get_rel_pos(n, n, torch.randn(2 * n - 1, 10, dtype=torch.float64)) for n in extent)
    by_row, by_column = _relative_views(q, rows, columns)
    assert by_row.data_ptr() != by_column.data_ptr()
    assert by_row.untyped_storage().data_ptr() == by_column.untyped_storage().data_ptr()
    for found, expected in zip((by_row, by_column), _relative(q, rows, columns), strict=True):
        torch.testing.assert_close(found.flatten(2, 3), expected, rtol=1e-13, atol=1e-13)


def test_an_embedding_does_not_depend_on_its_batch():
    encoder = FoldedEncoder(official())
    images = torch.randn(3, 3, 80, 80)
    together = encoder(images)
    assert all(
        torch.equal(encoder(image[None])[0], found) for image, found in zip(images, together, strict=True)
    )


@pytest.mark.parametrize("amx", [False, True])
def test_bfloat16_is_near_and_sums_in_float32(way, amx, monkeypatch):
    monkeypatch.setattr(sam_encoder, "has_amx", lambda: amx)
    encoder = FoldedEncoder(official())
    images = torch.randn(1, 3, 80, 80)
    reduced = encoder(images, torch.bfloat16)
    assert reduced.dtype == torch.float32
    assert 0 < distance(reduced, encoder(images)) < 0.03


def test_a_state_dict_fits_both():
    encoder = official()
    assert FoldedEncoder(encoder).state_dict().keys() == encoder.state_dict().keys()
