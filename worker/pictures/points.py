"""Many points in a picture: one by one with their uncertainties, or where they are many as density.

A density takes as long to draw, and as many bytes in a file, for a million points as for ten
thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.array_types import Reals
from worker.pictures.style import Theme, limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

#: From so many points on a picture shows their density.
DENSE = 5_000
#: From so many on a PDF holds points as an image.
_RASTERED = 500
_MOST_BINS, _LEAST_IN_BIN = 12, 20


@dataclass(frozen=True)
class Points:
    """Where points lie and how uncertain that is, all ``(n,)`` and finite."""

    x: Reals
    y: Reals
    e_x: Reals
    e_y: Reals

    @property
    def dense(self) -> bool:
        """Whether there are too many to be drawn one by one."""
        return len(self.x) > DENSE


def draw_coloured(axis: Axes, points: Points, colour: Reals, theme: Theme) -> Any:
    """Draw points in the colour of a third number; returns what a colour bar is made of.

    A density has the median colour of each place, and the typical uncertainty in a corner.
    """
    low, high = np.percentile(colour, [2, 98])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    scale = {"cmap": theme.colours, "vmin": low, "vmax": high}
    _frame(axis, points)
    if points.dense:
        shown = _within(axis, points)
        cells = axis.hexbin(
            points.x[shown], points.y[shown], C=colour[shown], reduce_C_function=np.median,
            gridsize=70, mincnt=1, linewidths=0.1, **scale,
        )  # fmt: skip
        _typical(axis, points, theme)
        return cells
    _error_bars(axis, points, theme)
    return axis.scatter(
        points.x, points.y, c=colour, s=16, linewidths=0.3, edgecolors=theme.paper, zorder=3,
        rasterized=len(points.x) > _RASTERED, **scale,
    )  # fmt: skip


def draw_plain(axis: Axes, points: Points, theme: Theme) -> None:
    """Draw points of one colour; a density is darker where there are more, in logarithmic steps."""
    _frame(axis, points)
    if points.dense:
        shown = _within(axis, points)
        draw_density(axis, points.x[shown], points.y[shown], theme.shades(theme.first))
        _typical(axis, points, theme)
        return
    _error_bars(axis, points, theme)
    axis.scatter(
        points.x, points.y, s=size(len(points.x)), color=theme.first, linewidths=0, zorder=3,
        rasterized=len(points.x) > _RASTERED,
    )  # fmt: skip


def size(number: int) -> float:
    """How large points are, so that one is seen and thousands do not hide each other."""
    return float(np.clip(1500 / number, 4, 16))


def draw_density(axis: Axes, x: Reals, y: Reals, shades: Colormap, **scales: Any) -> None:
    """How many points there are in each place, in logarithmic steps."""
    axis.hexbin(
        x, y, gridsize=45, mincnt=1, bins="log", cmap=shades, linewidths=0.1, vmin=0.4,
        **scales,
    )  # fmt: skip


def _frame(axis: Axes, points: Points) -> None:
    if len(points.x) < 300:  # few enough that each counts
        axis.margins(0.06)
        return
    axis.set(xlim=limits(points.x), ylim=limits(points.y))


def _within(axis: Axes, points: Points) -> Any:
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    inside = (points.x >= left) & (points.x <= right)
    return inside & (points.y >= bottom) & (points.y <= top)


def _error_bars(axis: Axes, points: Points, theme: Theme) -> None:
    axis.errorbar(
        points.x, points.y, points.e_y, points.e_x, fmt="none", ecolor=theme.grey, alpha=0.5,
        elinewidth=0.6, zorder=1, rasterized=len(points.x) > _RASTERED,
    )  # fmt: skip


def _typical(axis: Axes, points: Points, theme: Theme) -> None:
    """The median uncertainty, a cross in the corner that has the fewest points."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    right_half, upper_half = points.x > (left + right) / 2, points.y > (bottom + top) / 2
    corners = [(x, y) for x in (0.1, 0.9) for y in (0.1, 0.9)]
    counts = [np.sum((right_half == (x > 0.5)) & (upper_half == (y > 0.5))) for x, y in corners]
    x, y = corners[int(np.argmin(counts))]
    axis.errorbar(
        left + x * (right - left), bottom + y * (top - bottom), np.median(points.e_y),
        np.median(points.e_x), fmt="none", ecolor=theme.ink, elinewidth=1.0, zorder=4,
    )  # fmt: skip


def running(x: Reals, y: Reals) -> tuple[Reals, Reals, Reals, Reals]:
    """Median x, and the 16th, 50th and 84th percentile of y, in bins of equal number."""
    n_bins = min(_MOST_BINS, max(1, len(x) // _LEAST_IN_BIN))
    bins = np.array_split(np.argsort(x), n_bins)
    rows = [[np.median(x[each]), *np.percentile(y[each], [16, 50, 84])] for each in bins]
    place, low, middle, high = np.array(rows).T
    return place, low, middle, high
