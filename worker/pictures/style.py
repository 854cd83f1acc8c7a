"""How pictures look, all of them: colours, sizes, light and dark.

matplotlib is imported when a picture is drawn, and nothing of the session's settings changes.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.array_types import Reals
from worker.labels import LABELS, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

#: Colours of Okabe & Ito, which colour-blind readers tell apart.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
SNR_TICKS = (10, 30, 100, 300)
#: Where S/N hardly differ.
_MORE_SNR_TICKS = (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
_STYLE: dict[str, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "axes.linewidth": 0.7,
    "figure.dpi": 100.0,
    "savefig.dpi": 160.0,
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
}
#: Axes end here, in percentiles, so that a few spectra that went wrong do not hide the rest.
_SHOWN = (0.3, 99.7)


class NothingToDrawError(ValueError):
    """A picture has nothing to show; the text says in a sentence what is lacking."""


@dataclass(frozen=True)
class Theme:
    """The colours of a picture on paper of one brightness.

    Attributes
    ----------
    paper, ink, grey, grid
        Behind everything; letters and axes; what stands back; lines that help the eye.
    first, second
        Two colours of Okabe & Ito's that stand out from the paper.
    span
        The part of viridis that stands out from it.
    """

    paper: str
    ink: str
    grey: str
    grid: str
    first: str
    second: str
    span: tuple[float, float]

    @property
    def colours(self) -> Colormap:
        """The sequential colours for numbers."""
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap

        return ListedColormap(colormaps["viridis"](np.linspace(*self.span, 256)))

    def shades(self, colour: str) -> Colormap:
        """From the paper to a colour, for densities and fractions."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("shades", [self.paper, colour])

    def rim(self) -> list[Any]:
        """What lets a line stand out from the points that it crosses."""
        from matplotlib.patheffects import Normal, Stroke

        return [Stroke(linewidth=2.6, foreground=self.paper), Normal()]


LIGHT = Theme("white", "black", GREY, "#dddddd", BLUE, ORANGE, (0.0, 0.95))
DARK = Theme("#14171c", "#e6e6e6", "#9aa0a6", "#3a404a", "#56b4e9", "#e69f00", (0.25, 1.0))


def title(label: Label) -> str:
    """A label as it stands over its picture, with its unit."""
    return f"{symbol(label)} ({label.unit})"


def symbol(label: Label) -> str:
    """A label as it is written in papers."""
    symbols = {"teff": r"$T_\mathrm{eff}$", "logg": r"$\log\,g$"}
    return symbols.get(label.name, label.description.removesuffix(" abundance"))


@contextmanager
def new_figure(size: tuple[float, float], theme: Theme = LIGHT) -> Iterator[Figure]:
    """A figure of a width and height in inches, to be filled within the context."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _styled(theme):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: Path, theme: Theme = LIGHT) -> None:
    """Write a figure in the format of the file's ending; the same figure gives the same bytes."""
    path.write_bytes(rendered(figure, path.suffix[1:], theme))


def rendered(figure: Figure, kind: str, theme: Theme = LIGHT, dpi: float | None = None) -> bytes:
    """A figure as the bytes of a ``png`` or a ``pdf``."""
    held = io.BytesIO()
    with _styled(theme):  # ticks are made when a figure is drawn
        metadata = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(held, format=kind, metadata=metadata, dpi=dpi)
    return held.getvalue()


@contextmanager
def figure_at(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A light figure that is written to a file at the end."""
    with new_figure(size) as figure:
        yield figure
    save(figure, path)


@contextmanager
def _styled(theme: Theme) -> Iterator[None]:
    import matplotlib

    ink = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
        theme.ink,
    )
    paper = dict.fromkeys(("figure.facecolor", "axes.facecolor"), theme.paper)
    with matplotlib.rc_context(_STYLE | ink | paper):  # type: ignore[arg-type]
        yield


def label_panels(
    figure: Figure, titles: Sequence[str], columns: int, x: str, y: str
) -> tuple[list[Axes], Axes]:
    """A panel for each title, and what is left of the last row for what explains them."""
    rows = len(titles) // columns + 1
    grid = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(grid[divmod(i, columns)]) for i in range(len(titles))]
    spare = figure.add_subplot(grid[rows - 1, len(titles) % columns :])
    spare.set_axis_off()
    for axis, text in zip(axes, titles, strict=True):
        axis.set_title(text)
    figure.supxlabel(x)
    figure.supylabel(y)
    return axes, spare


def limits(values: Reals) -> tuple[float, float]:
    """Where an axis begins and ends that shows these values, but for the last few."""
    low, high = np.percentile(values, _SHOWN)
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def snr_axis(axis: Axes, snr: Reals) -> None:
    """A logarithmic axis of S/N with plain numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xscale("log")
    low, high = 0.9 * snr.min(), 1.1 * snr.max()
    known = SNR_TICKS if high > 10 * low else _MORE_SNR_TICKS
    between = MaxNLocator(4).tick_values(low, high)
    for places in (known, between):
        ticks = [place for place in places if low <= place <= high]
        if len(ticks) >= 2:
            break
    if len(ticks) > 4:  # a panel is narrow
        ticks = ticks[::2]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlim(low, high)


#: Panels of labels in a row.
PANEL_COLUMNS = 6


def panels_size(count: int) -> tuple[float, float]:
    """The size in inches of a figure of so many panels and a spare one."""
    return 12.0, 2.15 * (count // PANEL_COLUMNS + 1)


@contextmanager
def panels(
    path: Path, x: str, y: str, shown: Collection[Label] = LABELS
) -> Iterator[tuple[Figure, list[Axes], Axes]]:
    """A panel for each label that is shown, titled, and a spare place for what explains them."""
    titles = [title(label) for label in shown]
    with figure_at(path, panels_size(len(shown))) as figure:
        axes, spare = label_panels(figure, titles, PANEL_COLUMNS, x, y)
        yield figure, axes, spare
