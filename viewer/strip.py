"""One picture of an image's way through the method: a row an image, a column a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from tasks.views import View
from viewer import style
from viewer.panels import describe

UNKNOWN = 255
VIEWS = 3
"""Views drawn a row, the identity not among them: it stands in the prompts' column."""
CELL, GAP, GROUP_GAP, SIDE = 1.15, 0.06, 0.22, 1.15
"""Inches: a cell's width, between cells, between groups, and the text at the left."""
HEAD, FOOT, CAPTION = 0.62, 0.5, 0.17
"""Inches: the columns' titles, the legend, and the line below each row."""


@dataclass(frozen=True)
class StripRow:
    """All that is drawn of one image, in its true extent.

    name: its path; labels: its classes' names. image: (y, x, channel=3) uint8; view: (view, parameter=4),
    rows of `View.parameters`; mask: (slot, view, y, x) uint8 {0, 1, 255 no vote}; mean, entropy, cam:
    (slot, y, x) in [0, 1]; point: (slot, piece, view, point, coordinate=3) x, y, label in each view's own
    frame, NaN where unused; slot_class: (slot,) uint8, 0 unused; p1, p2, p, truth: (y, x) uint8 label maps;
    confidence: (y, x) in [0, 1]; truth: None where it is not known.
    """

    name: str
    labels: tuple[str, ...]
    image: np.ndarray
    view: np.ndarray
    mask: np.ndarray
    mean: np.ndarray
    entropy: np.ndarray
    cam: np.ndarray
    point: np.ndarray
    slot_class: np.ndarray
    p1: np.ndarray
    p2: np.ndarray
    p: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray | None = None

    @property
    def slots(self) -> list[tuple[int, int]]:
        """Each used slot with its class index."""
        return [(n, int(k)) for n, k in enumerate(self.slot_class) if k]

    def telling(self) -> list[int]:
        """Views but the first, those in which SAM found something before those that show bare surface."""
        found = [bool((self.mask[:, n] == 1).any()) for n in range(len(self.view))]
        return sorted(range(1, len(self.view)), key=lambda n: (not found[n], n))

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


Draw = Callable[[Axes, StripRow], None]


@dataclass(frozen=True)
class Column:
    """One step: its title, what draws it, and the group that it belongs to."""

    group: str
    title: str
    draw: Draw


def strip(rows: Sequence[StripRow], classes: Sequence[str]) -> Figure:
    """Draw images one below the other, each from its pixels to its label.

    rows: at least one; classes: names of all classes, from index 1. A column of truth is drawn where any row
    has one. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("the picture needs at least one image; name one")
    columns = _columns(rows)
    heights = [CELL * float(np.clip(row.extent[0] / row.extent[1], 0.5, 1.6)) for row in rows]
    lefts = _lefts(columns)
    width, height = lefts[-1] + CELL + 0.1, HEAD + sum(heights) + CAPTION * len(rows) + FOOT
    figure = Figure(figsize=(width, height), facecolor=style.PAPER)
    top = height - HEAD
    _titles(figure, columns, lefts, top)
    for row, cell in zip(rows, heights, strict=True):
        _side(figure, row, top, cell)
        for column, left in zip(columns, lefts, strict=True):
            column.draw(_axes(figure, left, top - cell, cell), row)
        top -= cell + CAPTION
    _legend(figure, sorted({k for row in rows for _, k in row.slots}), classes)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the picture as a PNG, whole or not at all."""
    partial_path = path.with_name(path.name + ".partial")
    figure.savefig(partial_path, format="png", dpi=144)
    partial_path.replace(path)


def _columns(rows: Sequence[StripRow]) -> list[Column]:
    """What is drawn, in the order in which the method makes it."""
    shown = min(VIEWS, min(len(row.view) for row in rows) - 1)
    columns = [
        Column("", "image", _draw_image),
        Column("CAM branch", "CAM", _draw_cam),
        Column("CAM branch", "P1", partial(_draw_labels, name="p1")),
        Column("SAM branch", "prompts", _draw_prompts),
        *(Column("SAM branch", f"view {n}", partial(_draw_view, n=n)) for n in range(1, 1 + shown)),
        Column("SAM branch", "mean", partial(_draw_share, name="mean", ramp=style.HEAT)),
        Column("SAM branch", "entropy", partial(_draw_share, name="entropy", ramp=style.HEAT)),
        Column("SAM branch", "P2", partial(_draw_labels, name="p2")),
        Column("fusion", "P", partial(_draw_labels, name="p")),
        Column("fusion", "confidence", partial(_draw_share, name="confidence", ramp=style.TRUST)),
    ]
    if any(row.truth is not None for row in rows):
        columns.append(Column(" ", "truth", partial(_draw_labels, name="truth")))
    return columns


# -- layout -----------------------------------------------------------------------------------------------


def _lefts(columns: Sequence[Column]) -> list[float]:
    """Left edge of each column in inches; groups stand a little apart."""
    lefts = [SIDE]
    for before, column in pairwise(columns):
        lefts.append(lefts[-1] + CELL + (GAP if before.group == column.group else GROUP_GAP))
    return lefts


def _axes(figure: Figure, left: float, bottom: float, height: float) -> Axes:
    width, total = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / total, CELL / width, height / total))
    axes.set_axis_off()
    return axes


def _text(figure: Figure, x: float, y: float, text: str, **how: object) -> None:
    """Text at a place given in inches from the bottom left."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **how)  # type: ignore[arg-type]


def _titles(figure: Figure, columns: Sequence[Column], lefts: Sequence[float], top: float) -> None:
    for column, left in zip(columns, lefts, strict=True):
        bold = "bold" if column.title in ("P1", "P2", "P") else "normal"
        _text(
            figure,
            left + CELL / 2,
            top + 0.08,
            column.title,
            size=9,
            color=style.INK,
            ha="center",
            weight=bold,
        )
    for group in dict.fromkeys(column.group for column in columns if column.group.strip()):
        members = [left for column, left in zip(columns, lefts, strict=True) if column.group == group]
        centre = (members[0] + members[-1] + CELL) / 2
        _text(figure, centre, top + 0.38, group, size=9, color=style.QUIET, ha="center")
        _rule(figure, members[0], members[-1] + CELL, top + 0.3)


def _rule(figure: Figure, left: float, right: float, y: float) -> None:
    width, height = figure.get_size_inches()
    ends = [left / width, right / width]
    figure.add_artist(Line2D(ends, [y / height] * 2, color=style.RULE, linewidth=1.2))


def _side(figure: Figure, row: StripRow, top: float, cell: float) -> None:
    """The classes' names, and the file's name small below."""
    middle = top - cell / 2
    titles = list(row.labels) or ["no defect"]
    for n, title in enumerate(titles):
        _text(figure, SIDE - 0.12, middle + 0.08 + 0.17 * (len(titles) - 1 - n), title[:20],
              size=min(10.0, 120 / max(len(title), 1)), color=style.INK, weight="bold", ha="right", va="center")  # fmt: skip
    stem = PurePosixPath(row.name).stem
    shown = stem if len(stem) <= 18 else "…" + stem[-17:]
    extent = f"{row.extent[1]} × {row.extent[0]} px"
    for n, line in enumerate((shown, extent)):
        _text(figure, SIDE - 0.12, middle - 0.12 - 0.14 * n, line,
              size=6.5, color=style.QUIET, ha="right", va="center")  # fmt: skip


def _legend(figure: Figure, present: Sequence[int], classes: Sequence[str]) -> None:
    names = {k: classes[k - 1] if k <= len(classes) else str(k) for k in present}
    dot = {"marker": "o", "linestyle": "", "markersize": 5, "markeredgewidth": 1.0}
    handles: list[Artist] = [Patch(facecolor=style.colour(k), label=name) for k, name in names.items()]
    handles += [
        Patch(facecolor="#B8BEC6", edgecolor=style.PAPER, hatch="/////", label="255: not decided"),
        Line2D([], [], color=style.colour(min(present, default=1)), markeredgecolor="#FFFFFF",
               label="prompt: defect, in its class's colour", **dot),  # type: ignore[arg-type]
        Line2D([], [], color=style.INK, markeredgecolor="#FFFFFF", label="prompt: background", **dot),  # type: ignore[arg-type]
    ]  # fmt: skip
    height = figure.get_size_inches()[1]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(SIDE / figure.get_size_inches()[0], 0.06 / height),
        ncols=len(handles), fontsize=7.5, frameon=False, labelcolor=style.INK, handlelength=1.1,
        handleheight=1.0, columnspacing=1.4, borderaxespad=0, handletextpad=0.5,
    )  # fmt: skip
    _scale(figure)


def _scale(figure: Figure) -> None:
    """What the two colour maps mean, at the right of the legend."""
    width, height = figure.get_size_inches()
    for n, (name, title) in enumerate(((style.HEAT, "CAM, mean, entropy"), (style.TRUST, "confidence"))):
        left = width - 4.2 + 2.3 * n
        bar = figure.add_axes((left / width, 0.15 / height, 0.7 / width, 0.1 / height))
        bar.imshow(np.linspace(0, 1, 64)[None], cmap=name, aspect="auto")
        bar.set_axis_off()
        _text(figure, left - 0.05, 0.2, "0", size=7, color=style.QUIET, ha="right", va="center")
        _text(figure, left + 0.75, 0.2, f"1   {title}", size=7, color=style.QUIET, ha="left", va="center")


# -- cells ------------------------------------------------------------------------------------------------


def _plain(x: np.ndarray) -> np.ndarray:
    """The highest of all slots, where there is a slot axis: (y, x) float32 in [0, 1]."""
    values = np.asarray(x, np.float32)
    return np.clip(values.max(0, initial=0) if values.ndim == 3 else values, 0, 1)


def _show(axes: Axes, picture: np.ndarray) -> None:
    """picture: (y, x, channel=3) float in [0, 1] or uint8, fitted into the cell with its sides' ratio kept."""
    axes.imshow(picture, interpolation="antialiased", aspect="equal")
    height, width = picture.shape[:2]
    axes.add_patch(
        Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=style.RULE, linewidth=0.6, clip_on=False)
    )


def _outline(axes: Axes, inside: np.ndarray, colour: str) -> None:
    """A line around what is true in (y, x), dark below and coloured above, to be seen on any ground."""
    framed = np.pad(inside, 1).astype(float)  # so that a piece at the border is closed
    if not inside.any():
        return
    height, width = inside.shape
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for line, ink in ((1.8, "#000000A0"), (1.0, colour)):
        axes.contour(x, y, framed, levels=[0.5], colors=[ink], linewidths=line)


def _draw_image(axes: Axes, row: StripRow) -> None:
    _show(axes, row.image)


def _draw_cam(axes: Axes, row: StripRow) -> None:
    _show(axes, overlaid(row.image, _plain(row.cam)))


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Evidence laid over an image, opaque where it is strong.

    image: (y, x, channel=3) uint8; heat: (y, x) in [0, 1]. Returns (y, x, channel=3) float64 in [0, 1].
    """
    opacity = 0.25 + 0.6 * heat[..., None]
    return np.asarray(colormaps[style.HEAT](heat)[..., :3] * opacity + image / 255 * (1 - opacity))


def _draw_share(axes: Axes, row: StripRow, name: str, ramp: str) -> None:
    _show(axes, colormaps[ramp](_plain(getattr(row, name)))[..., :3])


def _draw_labels(axes: Axes, row: StripRow, name: str) -> None:
    label = getattr(row, name)
    if label is not None:
        _show(axes, labels_over(row.image, label))


def labels_over(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """A label map over the paled image: classes filled, 255 striped.

    image: (y, x, channel=3) uint8; label: (y, x) uint8. Returns (y, x, channel=3) float64 in [0, 1].
    """
    picture = 0.55 * image.mean(2, keepdims=True).repeat(3, 2) / 255 + 0.15
    for k in np.unique(label[(label > 0) & (label != UNKNOWN)]).tolist():
        picture[label == k] = 0.3 * picture[label == k] + 0.7 * style.rgb(style.colour(k))
    unsure = label == UNKNOWN
    bright = np.where(style.stripes(label.shape), 0.95, 0.6)[..., None]
    return np.asarray(np.where(unsure[..., None], 0.25 * picture + 0.75 * bright, picture))


def _draw_prompts(axes: Axes, row: StripRow) -> None:
    """The points that SAM was given in the identity view: light on the defect, dark beside it."""
    _show(axes, row.image)
    for slot, k in row.slots:
        points = row.point[slot, :, 0].reshape(-1, 3)  # (point, coordinate)
        points = points[~np.isnan(points).any(1)]
        upright = View.of(row.view[0]).invert_points(points[:, :2], row.extent)
        for wanted, face, edge in ((0, style.INK, "#FFFFFF"), (1, style.colour(k), "#FFFFFF")):
            x, y = upright[points[:, 2] == wanted].T
            axes.plot(x, y, "o", markersize=3.6, color=face, markeredgecolor=edge, markeredgewidth=0.7)


def _draw_view(axes: Axes, row: StripRow, n: int) -> None:
    """The n-th of the views that are shown, as SAM saw it, its mask outlined."""
    n = sorted(row.telling()[:VIEWS])[n - 1]
    view = View.of(row.view[n])
    _show(axes, view.apply_image(row.image))
    for slot, k in row.slots:
        _outline(axes, view.apply_map(row.mask[slot, n], fill=UNKNOWN) == 1, style.colour(k))
    axes.text(
        0.5,
        -0.03,
        describe(view),
        transform=axes.transAxes,
        size=6,
        color=style.QUIET,
        ha="center",
        va="top",
    )
