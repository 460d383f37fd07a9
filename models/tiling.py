"""Large images in tiles that overlap, so that memory does not grow with them and the result is that of the whole."""

from __future__ import annotations

from collections.abc import Iterator


def tiles(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles that cover an image, in pixels; the last ones may be smaller than `side`."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def widened(core: slice, limit: int, reach: int) -> slice:
    """A tile's rows or columns with `reach` more on each side, as far as the image of `limit` goes."""
    return slice(max(0, core.start - reach), min(limit, core.stop + reach))


def within(core: slice, wide: slice) -> slice:
    """Where a tile lies in what it was widened to."""
    return slice(core.start - wide.start, core.stop - wide.start)
