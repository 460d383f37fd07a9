"""SAM's mask decoder for many prompts on few images, with the official weights and mathematics.

A prompt has some ten tokens, an image thousands, and most of the official decoder's time goes into projecting the
image's tokens again for every prompt. Both cross attentions can do without:

- from tokens to the image, (t·Wq)(x·Wk)ᵀ = (t·Wq·Wkᵀ)xᵀ, and the weighted mean of x·Wv is the weighted mean of x,
  times Wv: the few tokens are projected into the image's space and back;
- from the image to tokens the same, with the roles changed.

What a bias adds to all logits of a softmax alike is left out. The upsampling runs on tokens, as two linear layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.official import Attention, MaskDecoder, Sam, TwoWayAttentionBlock

WARM = 2 << 20
"""Values of the image's tokens, over all prompts of a call, that stay in a CPU's caches: 8 MB."""


@torch.inference_mode()
def answer_prompts(
    sam: Sam,
    embedding: Tensor,
    owner: Tensor,
    points: tuple[Tensor, Tensor],
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
    *,
    multimask: bool = True,
) -> tuple[Tensor, Tensor]:
    """What SAM's decoder answers to prompts of equal shape, each on its own image.

    embedding: (n, d, h, w) float32; owner: (g,) int64, the image of each prompt; points: (g, point, 2) float x, y
    in the input frame, and (g, point) labels 1 / 0; boxes: (g, 4) float; masks: (g, 1, 4h, 4w) float logits.
    multimask: SAM's three masks, or its single one.
    Returns logits (g, choice, 4h, 4w) and predicted IoU (g, choice), float32.
    """
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)  # (g, token, d), (g, d, h, w)
    decoder = sam.mask_decoder
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(owner), -1, -1), sparse], 1)
    place = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)  # (1, h * w, d)
    chosen = range(1, decoder.num_mask_tokens) if multimask else range(1)
    h, w = embedding.shape[-2:]
    logits = embedding.new_empty(len(owner), len(chosen), 4 * h, 4 * w)
    iou = embedding.new_empty(len(owner), len(chosen))
    for part, image in _calls(owner, embedding, alone=masks is not None):
        prompted = image + (dense[:1] if masks is None else dense[part])
        keys = prompted.flatten(2).transpose(1, 2).contiguous()  # (1 or part, h * w, d)
        logits[part], iou[part] = _decode(decoder, tokens[part], keys, place, (h, w), chosen)
    return logits, iou


def _calls(owner: Tensor, embedding: Tensor, *, alone: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Which prompts to answer together, and the image, (1 or part, d, h, w), that they look at.

    On a CPU those of one image, whose tokens are shared, and no more than the caches hold; else all at once.
    alone: whether every prompt changes its image.
    """
    if embedding.device.type != "cpu":
        yield torch.arange(len(owner), device=owner.device), embedding[owner]
        return
    most = 1 if alone else max(1, WARM // embedding[0].numel())
    by_image = defaultdict[int, list[int]](list)
    for prompt, image in enumerate(owner.tolist()):
        by_image[image].append(prompt)
    for image, prompts in by_image.items():
        for start in range(0, len(prompts), most):
            yield torch.tensor(prompts[start : start + most]), embedding[image : image + 1]


def _decode(
    decoder: MaskDecoder, tokens: Tensor, keys: Tensor, place: Tensor, grid: tuple[int, int], chosen: range
) -> tuple[Tensor, Tensor]:
    """tokens: (g, token, d); keys: (1 or g, h * w, d), the image; place: (1, h * w, d), its positions."""
    queries = tokens
    for layer in decoder.transformer.layers:
        queries, keys = _two_way(layer, queries, keys, tokens, place)
    final = decoder.transformer.final_attn_token_to_image
    queries = queries + _look(final, queries + tokens, keys, place)
    queries = decoder.transformer.norm_final_attn(queries)
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([heads[i](queries[:, 1 + i]) for i in chosen], 1)  # (g, choice, d / 8)
    logits = _upsampled(decoder.output_upscaling, keys, weights, grid)
    return logits, decoder.iou_prediction_head(queries[:, 0])[:, chosen.start : chosen.stop]


def _two_way(
    layer: TwoWayAttentionBlock, queries: Tensor, keys: Tensor, tokens: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer of the transformer; shapes as of `_decode`."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        with_place = queries + tokens
        queries = queries + layer.self_attn(q=with_place, k=with_place, v=queries)
    queries = layer.norm1(queries)
    queries = layer.norm2(queries + _look(layer.cross_attn_token_to_image, queries + tokens, keys, place))
    queries = layer.norm3(queries + layer.mlp(queries))
    return queries, layer.norm4(
        _seen(layer.cross_attn_image_to_token, keys, place, queries + tokens, queries)
    )


def _look(attention: Attention, queries: Tensor, keys: Tensor, place: Tensor) -> Tensor:
    """What each token takes from the image: (g, token, d)."""
    heads = attention.num_heads
    projected = _by_head(attention.q_proj(queries), heads)  # (g, head, token, c)
    asked = (
        projected @ _per_head(attention.k_proj, heads) * projected.shape[-1] ** -0.5
    )  # (g, head, token, d)
    share = _logits(asked, keys, place).softmax(-1)  # (g, head * token, h * w)
    mean = (share @ keys).view_as(asked)
    values = mean @ _per_head(attention.v_proj, heads).transpose(1, 2)  # (g, head, token, c)
    joined = values.transpose(1, 2).flatten(2) + attention.v_proj.bias  # shares add up to 1
    return cast(Tensor, attention.out_proj(joined))


def _seen(attention: Attention, keys: Tensor, place: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """The image with what each of its tokens takes from the prompt's: (g, h * w, d)."""
    heads = attention.num_heads
    asked = _by_head(attention.k_proj(tokens), heads)  # (g, head, token, c)
    asked = asked * asked.shape[-1] ** -0.5
    given = _by_head(attention.v_proj(values), heads)
    bias = attention.q_proj.bias.view(heads, -1, 1)
    logits = _logits(asked @ _per_head(attention.q_proj, heads), keys, place)
    logits += (asked @ bias).flatten(1, 2)
    share = logits.view(*asked.shape[:3], -1).softmax(2).flatten(1, 2)  # (g, head * token, h * w)
    out = attention.out_proj.weight.view(len(attention.out_proj.weight), heads, -1).permute(1, 2, 0)
    offered = (given @ out).flatten(1, 2)  # (g, head * token, d)
    offered_to = keys.expand(len(offered), -1, -1) + attention.out_proj.bias
    return torch.baddbmm(offered_to, share.transpose(1, 2), offered)


def _logits(asked: Tensor, keys: Tensor, place: Tensor) -> Tensor:
    """asked: (g, head, token, d), of the image's tokens (1 or g, h * w, d). Returns (g, head * token, h * w)."""
    rows = asked.flatten(1, 2)
    return rows @ (keys + place).transpose(1, 2)


def _by_head(projected: Tensor, heads: int) -> Tensor:
    """(g, token, head * c) to (g, head, token, c)."""
    return projected.view(*projected.shape[:2], heads, -1).transpose(1, 2)


def _per_head(linear: nn.Linear, heads: int) -> Tensor:
    """A projection's weight by heads: (head, c, d)."""
    return linear.weight.view(heads, -1, linear.in_features)


def _upsampled(layers: nn.Sequential, keys: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Logits at four times the image's resolution.

    keys: (g, h * w, d); weights: (g, choice, d / 8), of each mask. Returns (g, choice, 4h, 4w).
    """
    parts: tuple[Any, ...] = tuple(layers)
    first, norm, activation, second, last = parts
    half = _expanded(keys, first)  # (g, h * w, 4, d / 4)
    half = F.layer_norm(half, half.shape[-1:], norm.weight, norm.bias, norm.eps)
    full: Tensor = last(_expanded(activation(half), second))  # (g, h * w, 4, 4, d / 8)
    h, w = grid
    logits = full.flatten(1, 3) @ weights.transpose(1, 2)  # (g, h * w * 16, choice)
    split = logits.view(len(keys), h, w, 2, 2, 2, 2, -1)  # …, row, column, row within, column within, choice
    return split.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(keys), -1, 4 * h, 4 * w)


def _expanded(tokens: Tensor, convolution: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution of 2 × 2 pixels and stride 2, by tokens: (…, c) to (…, 4, c')."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * c', c)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(tokens, weight, bias).view(*tokens.shape[:-1], 4, -1)
