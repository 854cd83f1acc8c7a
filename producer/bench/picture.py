"""The picture of what was measured; matplotlib is imported when it is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from producer.bench.machine import Machine, sentence
from producer.bench.measured import Measured
from producer.bench.report import number
from worker.errors import FatalError
from worker.pictures.style import BLUE, GREY, ORANGE, figure_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Of the ways in turn, the plain one first; by Okabe & Ito, as the others.
_COLOURS = (GREY, ORANGE, BLUE, "#009e73", "#cc79a7")
_MARKERS = "osD^v"
#: Where legends stand, for lines and bars may be anywhere.
_BELOW: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "frameon": False}
#: How many times its beginning the end of a bar's text is, about.
_TEXT = 3
_WIDTH, _HEIGHT = 5.6, 4.2
_TITLES = {
    "engine": "Inference of a batch",
    "load": "Loading on one core",
    "stream": "The whole stream",
    "live": "One visit, idle stream",
}


def draw(path: Path, machine: Machine, parts: Mapping[str, Sequence[Measured]]) -> None:
    """A panel for each part, and the machine below.

    Raises
    ------
    FatalError
        The file cannot be written.
    """
    columns = min(2, len(parts))
    lines = -(-len(parts) // columns)
    try:
        with figure_at(path, (_WIDTH * columns, _HEIGHT * lines + 0.6)) as figure:
            axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
            for axis, (part, rows) in zip(axes, parts.items(), strict=False):
                axis.set_title(_TITLES[part])
                (_lines if part == "engine" else _bars)(axis, rows)
            for axis in axes[len(parts) :]:
                axis.set_axis_off()
            words = textwrap.wrap(sentence(machine), int(26 * _WIDTH * columns))
            figure.supxlabel("\n".join(words), fontsize=7, color=GREY)
    except OSError as error:
        raise FatalError(f"{path} cannot be written: {error.strerror}.") from error


def _lines(axis: Axes, rows: Sequence[Measured]) -> None:
    """Spectra per second by batch size, each way a line; the floor of a precision is dotted."""
    ways = list(dict.fromkeys(row.way for row in rows))
    floors = {}
    for way, colour, marker in zip(ways, _COLOURS, _MARKERS, strict=False):
        mine = [row for row in rows if row.way == way]
        floors[mine[0].floor] = colour
        axis.plot(
            [row.spectra for row in mine], [row.per_second for row in mine], marker=marker,
            color=colour, label=way, markersize=4, linewidth=1.2,
        )  # fmt: skip
    for floor, colour in floors.items():
        axis.axhline(1 / floor, color=colour, linestyle=":", linewidth=1.2)
    axis.plot([], [], color="black", linestyle=":", linewidth=1.2, label="floor")
    sizes = list(dict.fromkeys(row.spectra for row in rows))
    axis.set(xscale="log", yscale="log", xlabel="batch size", ylabel="spectra per second")
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xticks([], minor=True)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.legend(**_BELOW, ncols=3)


def _bars(axis: Axes, rows: Sequence[Measured]) -> None:
    """A bar for each way with its ratio to the plain one, and its floor as a mark."""
    timed = all(row.p99 is not None for row in rows)
    values = [1e3 * row.seconds if timed else row.per_second for row in rows]
    floors = [1e3 * row.floor if timed else 1 / row.floor for row in rows]
    places, ways = _places(rows), list(dict.fromkeys(row.way for row in rows))
    colours = [_COLOURS[ways.index(row.way) % len(_COLOURS)] for row in rows]
    axis.barh(places, values, height=0.8, color=colours)
    axis.scatter(floors, places, marker="|", s=90, color="black", linewidths=1.4, zorder=3)
    for place, value, floor, row in zip(places, values, floors, rows, strict=True):
        end = max(value, floor) if floor < _TEXT * value else value  # not across the mark
        axis.text(end, place, f" {_words(row, value)}", va="center", fontsize=7)
    axis.set(xscale="log", xlabel="ms" if timed else "spectra per second")
    everything = [*values, *floors]
    axis.set_xlim(0.5 * min(everything), 9 * max(everything))
    axis.set_yticks(places, [row.way for row in rows])
    axis.set_ylim(max(places[-1] + 0.7, 4.0), -1.3)
    for place, row, before in zip(places, rows, [None, *rows], strict=False):
        if before is None or row.case != before.case:
            axis.text(0.01, place - 0.55, row.case, transform=axis.get_yaxis_transform())
    axis.tick_params(axis="y", length=0)
    axis.plot([], [], "|", color="black", markersize=9, label="floor")
    axis.legend(**_BELOW)


def _places(rows: Sequence[Measured]) -> list[float]:
    """One below the other, with a gap between cases."""
    cases = list(dict.fromkeys(row.case for row in rows))
    return [number + 0.7 * cases.index(row.case) for number, row in enumerate(rows)]


def _words(row: Measured, value: float) -> str:
    ratio = "" if row.ratio == 1 else f" (×{number(row.ratio)})"
    p99 = "" if row.p99 is None else f", p99 {number(1e3 * row.p99)}"
    return f"{number(value)}{ratio}{p99}"
