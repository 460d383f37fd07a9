"""SAM's ViT image encoder, with the official weights and mathematics, but no attention map at full size.

Two forms of SAM's attention with decomposed relative positions, both exact:

- folded, for accelerators and for the windows of a CPU: with q' = [q·s, q·Rh, q·Rw] and k' = [k, onehot(row),
  onehot(column)] it is plain attention, softmax(q'k'ᵀ)v, which the fused kernels compute; they multiply by s themselves,
  so that there q' = [q, q·Rh/s, q·Rw/s];
- tiled, for a CPU's attention over the whole image: the very sums of the official code, for as many queries at a time
  as fit a core's cache. It does a third of the folded form's products, and memory is touched once. With AMX, where
  products in bfloat16 cost less than passes over the logits, these are folded, too.

On a CPU padding of windows is never projected: SAM pads with zeros after the norm, so that a padded token's query, key
and value are the biases, whatever the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hardware import has_amx
from models.official import Block, ImageEncoderViT, get_rel_pos, window_partition, window_unpartition

TILE = 1 << 19
"""Attention logits a core holds at a time: 2 MB in float32, what its second cache takes."""
TOKENS = 1024
"""Tokens whose hidden layer is held at a time on a CPU: the memory is used again while it is still warm."""
ALIGNED = 8
"""Fused kernels want the width of a head to be a multiple of this."""


def by_tiles(device: torch.device) -> bool:
    """Whether a device is served by its caches, and not by fused kernels."""
    return device.type == "cpu"


def folded_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """SAM's attention as plain attention of wider heads.

    q, k, v: (batch, head, y * x, d); rows: (y, y, d), the relative positions Rh of each pair of rows; columns:
    (x, x, d), Rw. Returns (batch, head, y * x, d).
    """
    d, scale = q.shape[-1], q.shape[-1] ** -0.5
    spare = -(d + len(rows) + len(columns)) % ALIGNED
    grid = q.view(*q.shape[:2], len(rows), len(columns), d)  # (batch, head, y, x, d)
    nothing = q.new_zeros(()).expand(*grid.shape[:4], spare)
    # the kernel scales the sum, so that q need not be written for it
    query = torch.cat([grid, *_relative_views(q, rows / scale, columns / scale), nothing], -1).flatten(2, 3)
    places = _places(len(rows), len(columns), spare, q.dtype, q.device)
    key = torch.cat([k, places.expand(*k.shape[:2], -1, -1)], -1)
    narrow = q.dtype == torch.float32 or _takes_narrow_values(q.device)
    value = v if narrow else F.pad(v, (0, query.shape[-1] - d))
    return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :d]


def _relative_views(q: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """q·Rh and q·Rw as `_relative` gives them, (batch, head, y, x, y) and (…, x), but as views of one product.

    Rh of a pair of rows hangs on their distance alone, so what a row needs of q times all distances is a part without
    gaps, which begins one further left for every row further down.
    """
    (batch, heads, tokens, _), height, width = q.shape, len(rows), len(columns)
    table = torch.cat([rows[-1], rows[0, 1:], columns[-1], columns[0, 1:]])  # (2y - 1 + 2x - 1, d)
    each = q.transpose(0, 1).flatten(1, 2)  # (head, batch * y * x, d), q's own memory
    wide = len(table)
    product = torch.bmm(each, table.T.expand(heads, -1, -1)).view(-1)
    outer = (tokens * wide, batch * tokens * wide)
    by_row = product.as_strided(
        (batch, heads, height, width, height), (*outer, width * wide - 1, wide, 1), height - 1
    )
    by_column = product.as_strided(
        (batch, heads, height, width, width), (*outer, width * wide, wide - 1, 1), 2 * height - 1 + width - 1
    )
    return by_row, by_column


@lru_cache(maxsize=16)
def _places(height: int, width: int, spare: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is appended to the keys: onehot(row), onehot(column), zeros; (y * x, y + x + spare)."""
    place = torch.arange(height * width, device=device)
    parts = [F.one_hot(place // width, height), F.one_hot(place % width, width)]
    return torch.cat([*parts, place.new_zeros(height * width, spare)], 1).to(dtype)


def _takes_narrow_values(device: torch.device) -> bool:
    """Whether its kernels for 16 bits take values that are narrower than keys: cuDNN's does, from Hopper on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def folded_products(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same by plain products, where all logits fit the caches. Arguments and result as of `folded_attention`."""
    query, key = _folded(q, k, rows, columns)
    logits = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2).contiguous())
    return torch.bmm(logits.softmax(-1), v.flatten(0, 1)).view_as(q)


def _folded(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, (batch, head, y * x, d + y + x), whose products are the logits with relative positions."""
    query = torch.cat([q * q.shape[-1] ** -0.5, *_relative(q, rows, columns)], -1)
    places = _places(len(rows), len(columns), 0, q.dtype, q.device)
    return query, torch.cat([k, places.expand(*k.shape[:2], -1, -1)], -1)


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, folded: bool = False
) -> Tensor:
    """SAM's attention over so many queries at a time that the logits stay in cache.

    Arguments and result as of `folded_attention`, with one axis (head) in place of batch and head. folded: by three times
    the products instead of the official sums, which pass twice over all logits.
    """
    by_row, by_column = None, None
    if folded:
        query, key = (side[0] for side in _folded(q[None], k[None], rows, columns))
    else:
        query, key = q * q.shape[-1] ** -0.5, k
        by_row, by_column = (
            part[0] for part in _relative(q[None], rows, columns)
        )  # (head, y * x, y), (…, x)
    # left transposed, the keys would be copied by every product in 16 bits
    transposed = key.transpose(1, 2).contiguous()
    out = torch.empty_like(q)
    for heads, part in _tiles(len(q), q.shape[1]):
        logits = torch.bmm(query[heads, part], transposed[heads])  # (head, tile, y * x)
        if by_row is not None and by_column is not None:
            grid = logits.view(*logits.shape[:2], len(rows), len(columns))
            grid += by_row[heads, part, :, None]
            grid += by_column[heads, part, None]
        out[heads, part] = torch.bmm(logits.softmax(-1), v[heads])
    return out


def _relative(q: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """q·Rh and q·Rw: (batch, head, y * x, y) and (batch, head, y * x, x)."""
    grid = q.reshape(*q.shape[:2], len(rows), len(columns), -1)  # (batch, head, y, x, d)
    by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns)
    return by_row.flatten(2, 3), by_column.flatten(2, 3)


def _tiles(heads: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Heads and queries to take at a time: a tile for each thread."""
    threads = torch.get_num_threads()
    queries = max(1, TILE // tokens)
    together = min(heads, max(threads, threads * queries // tokens))
    for head in range(0, heads, together):
        for start in range(0, tokens, queries):
            yield slice(head, head + together), slice(start, start + queries)


@dataclass(frozen=True)
class _Layer:
    """A block with its weights in the precision of the matrix products; norms stay in float32.

    qkv, proj, wide, narrow: weight and bias of a linear layer; rows, columns: relative positions of each pair.
    window: side of a window in tokens, 0 for attention over all.
    """

    norm1: nn.Module
    norm2: nn.Module
    qkv: tuple[Tensor, Tensor]
    proj: tuple[Tensor, Tensor]
    wide: tuple[Tensor, Tensor]
    narrow: tuple[Tensor, Tensor]
    rows: Tensor
    columns: Tensor
    heads: int
    window: int

    @staticmethod
    def of(block: Block, grid: tuple[int, int], dtype: torch.dtype) -> _Layer:
        """grid: rows and columns of the image's tokens."""

        def pair(linear: nn.Linear) -> tuple[Tensor, Tensor]:
            return linear.weight.to(dtype), linear.bias.to(dtype)

        attention, window = block.attn, block.window_size
        height, width = (window, window) if window else grid
        return _Layer(
            norm1=block.norm1,
            norm2=block.norm2,
            qkv=pair(attention.qkv),
            proj=pair(attention.proj),
            wide=pair(block.mlp.lin1),
            narrow=pair(block.mlp.lin2),
            rows=get_rel_pos(height, height, attention.rel_pos_h).to(dtype),
            columns=get_rel_pos(width, width, attention.rel_pos_w).to(dtype),
            heads=attention.num_heads,
            window=window,
        )

    def attend(self, tokens: Tensor) -> Tensor:
        """Attention before its projection; (n, y, x, dim) to the same."""
        if not self.window:
            return self._whole(F.linear(tokens, *self.qkv))
        height, width = tokens.shape[1:3]
        if by_tiles(tokens.device):
            qkv = F.linear(tokens, *self.qkv)  # (n, y, x, 3 * dim)
            padded = self._padded(qkv, height + -height % self.window, width + -width % self.window)
            windows, extent = window_partition(padded, self.window)
            # a row of windows at a time, which the caches hold
            done = torch.cat([self._whole(part) for part in windows.split(extent[1] // self.window)])
        else:  # a product over the padding is less than a copy of queries, keys and values
            windows, extent = window_partition(tokens, self.window)
            done = self._whole(F.linear(windows, *self.qkv))
        joined: Tensor = window_unpartition(done, self.window, extent, (height, width))
        return joined

    def _whole(self, qkv: Tensor) -> Tensor:
        """Every token sees all others of its own; (batch, y, x, 3 * dim) to (batch, y, x, dim)."""
        q, k, v = qkv.reshape(len(qkv), -1, 3, self.heads, qkv.shape[3] // (3 * self.heads)).permute(
            2, 0, 3, 1, 4
        )  # (batch, head, y * x, d)
        if not by_tiles(qkv.device):
            out = folded_attention(q, k, v, self.rows, self.columns)
        elif self.window:
            out = folded_products(q.contiguous(), k, v.contiguous(), self.rows, self.columns)
        else:
            each = zip(q.contiguous(), k, v.contiguous(), strict=True)
            folded = (
                q.dtype == torch.bfloat16 and has_amx()
            )  # where products cost less than a pass over memory
            out = torch.stack([tiled_attention(*one, self.rows, self.columns, folded=folded) for one in each])
        return out.transpose(1, 2).reshape(*qkv.shape[:3], -1)

    def _padded(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """(n, y, x, 3 * dim) up to an extent: what a token of zeros gives is the bias."""
        if qkv.shape[1:3] == (height, width):
            return qkv
        padded = self.qkv[1].expand(len(qkv), height, width, -1).clone()
        padded[:, : qkv.shape[1], : qkv.shape[2]] = qkv
        return padded

    def add_hidden(self, x: Tensor) -> None:
        """Adds the block's two linear layers to the residual x, (token, dim) float32, in place."""
        dtype = self.wide[0].dtype
        step = TOKENS if by_tiles(x.device) else len(x)
        for start in range(0, len(x), step):
            part = x[start : start + step]
            hidden = F.gelu(F.linear(self.norm2(part).to(dtype), *self.wide))
            part += F.linear(hidden, *self.narrow)


class FoldedEncoder(nn.Module):
    """An official ImageEncoderViT, computed as this module's docstring says.

    It shares the official encoder's weights and their names, so that a state dict fits both. The weights are
    taken when it first runs and must not change afterwards; it is for inference alone.
    img_size: input side in pixels, as SamPredictor reads it.
    """

    def __init__(self, official: ImageEncoderViT) -> None:
        """official: with relative positions, as all published checkpoints have them."""
        super().__init__()
        self.img_size = official.img_size
        self.patch_embed, self.pos_embed = official.patch_embed, official.pos_embed
        self.blocks, self.neck = official.blocks, official.neck
        self._layers: dict[tuple[torch.dtype, torch.device], list[_Layer]] = {}

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Image embeddings.

        images: (n, 3, t, t) float32, normalised; dtype: of the matrix products, float32 or bfloat16; sums, norms
        and the residual stay in float32. Returns (n, d, t / 16, t / 16) float32.
        """
        if by_tiles(images.device):  # one by one: a batch gains nothing, and its memory leaves the caches
            return torch.cat([self._encode(image[None], dtype) for image in images])
        return self._encode(images, dtype)

    @torch.no_grad()
    def _encode(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        # on a CPU this convolution is a hundredth of the time; in float32 it would be a twentieth of a GPU's
        low = dtype == torch.bfloat16 and not by_tiles(images.device)
        with torch.autocast(images.device.type, dtype, enabled=low):
            x: Tensor = self.patch_embed(images).to(images.dtype)  # (n, y, x, dim)
        x = (x if self.pos_embed is None else x + self.pos_embed).contiguous()
        for layer in self._taken(dtype, (x.shape[1], x.shape[2])):
            attended = layer.attend(layer.norm1(x).to(dtype))
            x += F.linear(attended, *layer.proj)
            layer.add_hidden(x.flatten(0, 2))
        embedding: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return embedding

    def _taken(self, dtype: torch.dtype, grid: tuple[int, int]) -> list[_Layer]:
        """The blocks' weights in that precision, where they are now."""
        key = (dtype, next(self.parameters()).device)
        if key not in self._layers:
            self._layers[key] = [_Layer.of(block, grid, dtype) for block in self.blocks]
        return self._layers[key]
