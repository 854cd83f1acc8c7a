"""How uncertain labels are by S/N: as the rows say, and as repeat visits show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Reals
from worker.calibration.repeats import Visits, comparable
from worker.labels import LABELS
from worker.pictures.points import DENSE, draw_density, running, size
from worker.pictures.sample import Sample
from worker.pictures.style import (
    PANEL_COLUMNS,
    NothingToDrawError,
    Theme,
    label_panels,
    limits,
    new_figure,
    panels_size,
    snr_axis,
    title,
)
from worker.which_labels import known_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SNR = "S/N per pixel"
#: Fewer make no running median.
_LEAST_RUNNING = 40
#: The standard deviation of a Gaussian over its median absolute value.
_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class _Kind:
    """Coadds or visits: which rows they are, and how they are drawn."""

    name: str
    rows: NDArray[np.bool_]
    colour: str
    line: str

    @property
    def runs(self) -> bool:
        """Whether there are enough for a running median."""
        return int(self.rows.sum()) >= _LEAST_RUNNING


def _panels(labels: Reals) -> tuple[list[int], list[str], tuple[float, float]]:
    """The positions and titles of the labels that any of these has, and the size of a figure."""
    places = np.flatnonzero(known_labels(labels)).tolist()
    return places, [title(LABELS[place]) for place in places], panels_size(len(places))


def uncertainties(sample: Sample, theme: Theme) -> Figure:
    """The uncertainty of each label against S/N, coadds and visits, with running medians.

    Raises
    ------
    NothingToDrawError
        No spectrum has labels and an S/N.
    """
    shown = sample.only(sample.labelled & np.isfinite(sample.snr))
    if not len(shown):
        raise NothingToDrawError("No spectrum has both labels and a known S/N.")
    both = (
        _Kind("visits", ~shown.coadds, theme.second, "--"),
        _Kind("coadds", shown.coadds, theme.first, "-"),
    )
    kinds = [kind for kind in both if kind.rows.any()]
    places, titles, size = _panels(shown.labels)
    with new_figure(size, theme) as figure:
        axes, spare = label_panels(figure, titles, PANEL_COLUMNS, _SNR, "uncertainty")
        for axis, errors in zip(axes, shown.errors.T[places], strict=True):
            _uncertainty(axis, shown.snr, errors, kinds, theme)
        handles = [
            spare.plot([], [], linestyle=kind.line if kind.runs else "none", color=kind.colour,
                       marker="o", markersize=3, label=f"{kind.name}: {kind.rows.sum():,}")[0]
            for kind in kinds
        ]  # fmt: skip
        text = "lines: running medians" if any(kind.runs for kind in kinds) else ""
        _explain(spare, handles, text, dense=len(shown) > DENSE)
    return figure


def _uncertainty(axis: Axes, snr: Reals, e: Reals, kinds: list[_Kind], theme: Theme) -> None:
    positive = e > 0
    if not positive.any():
        return
    low, high = np.exp(limits(np.log(e[positive])))
    if len(snr) > DENSE:
        inside = positive & (e > low) & (e < high)
        draw_density(
            axis, snr[inside], e[inside], theme.shades(theme.grey), xscale="log", yscale="log"
        )
    for kind in kinds:
        rows = kind.rows & positive
        if len(snr) <= DENSE:
            axis.scatter(
                snr[rows], e[rows], s=size(len(snr)), color=kind.colour, alpha=0.5, linewidths=0,
                rasterized=True,
            )  # fmt: skip
        if rows.sum() >= _LEAST_RUNNING:
            place, _, middle, _ = running(snr[rows], e[rows])
            axis.plot(
                place, middle, kind.line, color=kind.colour, linewidth=1.4,
                path_effects=theme.rim(),
            )  # fmt: skip
    axis.set(yscale="log", ylim=(low, high))
    _plain_numbers(axis, high / low)
    snr_axis(axis, snr)


def repeats(sample: Sample, theme: Theme) -> Figure:
    """How far visits lie from the mean of their star, beside what their uncertainties say.

    A visit pulls the mean of its n visits towards itself, so its deviation is drawn
    sqrt(n / (n - 1)) times as large. :mod:`worker.calibration.repeats` says which visits count.

    Raises
    ------
    NothingToDrawError
        No star has two visits with labels.
    """
    visits = _repeated(sample)
    if not len(visits):
        raise NothingToDrawError(
            "No star has two unflagged visits with labels and a known S/N, so there is no scatter "
            "between visits."
        )
    number, count = np.unique(visits.star, return_inverse=True, return_counts=True)[1:]
    grown = np.sqrt(count / (count - 1))[number]
    places, titles, size = _panels(visits.labels)
    with new_figure(size, theme) as figure:
        axes, spare = label_panels(figure, titles, PANEL_COLUMNS, _SNR, "visit − mean of its star")
        for axis, place in zip(axes, places, strict=True):
            values, errors = visits.labels[:, place], visits.e_labels[:, place]
            off = (values - (np.bincount(number, values) / count)[number]) * grown
            _deviations(axis, visits.snr, off, errors, theme)
        told = f"visits: {len(visits):,}, stars: {len(count):,}"
        handles: list[Any] = spare.plot([], [], "o", color=theme.grey, markersize=3, label=told)
        if len(visits) >= _LEAST_RUNNING:
            handles += [
                spare.fill_between(
                    [], [], color=theme.first, alpha=0.35, label="±1σ of the visits"
                ),
                *spare.plot([], [], "--", color=theme.second, label="±1 typical uncertainty"),
            ]
        _explain(spare, handles, "", dense=len(visits) > DENSE)
    return figure


def _repeated(sample: Sample) -> Visits:
    """The comparable visits of known S/N."""
    rows = sample.labelled & ~sample.coadds & (sample.star >= 0) & np.isfinite(sample.snr)
    shown = sample.only(rows)
    errors = shown.errors.astype(np.float64)
    return comparable(
        Visits(
            star=shown.star,
            observation=np.column_stack([shown.mjd, shown.fiber]),
            snr=shown.snr.astype(np.float64),
            flags=shown.flags,
            labels=shown.labels.astype(np.float64),
            e_labels=errors,
            raw_e_labels=errors,  # not used here
        )
    )


def _deviations(axis: Axes, snr: Reals, off: Reals, errors: Reals, theme: Theme) -> None:
    end = max(np.abs(limits(off)))
    axis.axhline(0, color=theme.ink, linewidth=0.7)
    if len(snr) > DENSE:
        inside = np.abs(off) < end
        draw_density(axis, snr[inside], off[inside], theme.shades(theme.grey), xscale="log")
    else:
        axis.scatter(
            snr, off, s=size(len(snr)), color=theme.grey, alpha=0.6, linewidths=0, rasterized=True
        )
    if len(snr) >= _LEAST_RUNNING:
        place, _, middle, _ = running(snr, np.abs(off))
        sigma = _TO_SIGMA * middle
        axis.fill_between(place, -sigma, sigma, color=theme.first, alpha=0.3, linewidth=0)
        _, _, typical, _ = running(snr, errors)
        for width, colour, line in ((sigma, theme.first, "-"), (typical, theme.second, "--")):
            for side in (-width, width):
                axis.plot(place, side, line, color=colour, linewidth=1.3, path_effects=theme.rim())
    axis.set_ylim(-end, end)
    snr_axis(axis, snr)


def _explain(spare: Axes, handles: list[Any], text: str, *, dense: bool) -> None:
    shade = "shade: number of spectra" if dense else ""
    spare.legend(
        handles=handles, loc="center", frameon=False, fontsize=8, title_fontsize=8,
        title="\n".join(filter(None, (text, shade))) or None,
    )  # fmt: skip


def _plain_numbers(axis: Axes, ratio: float) -> None:
    """Few ticks of a logarithmic axis, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    subs = (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
    narrow = ratio < 5
    locator = MaxNLocator(4, prune="both") if narrow else LogLocator(subs=subs, numticks=12)
    axis.yaxis.set_major_locator(locator)
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
