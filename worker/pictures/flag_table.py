"""How many spectra have each flag, by S/N."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker.flags import BAD, ResultFlag
from worker.pictures.sample import Sample
from worker.pictures.style import NothingToDrawError, Theme, new_figure
from worker.results.snr import snr_bins

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EDGES = (20.0, 50.0, 100.0, 200.0)


def flags(sample: Sample, theme: Theme) -> Figure:
    """The fraction of spectra with each flag in each range of S/N, as a shaded table.

    Raises
    ------
    NothingToDrawError
        There are no spectra.
    """
    if not len(sample):
        raise NothingToDrawError("There are no spectra.")
    bins = _bins(sample)
    borne = _borne(sample.flags)
    parts = np.array([[rows[inside].mean() for inside in bins.values()] for rows in borne.values()])
    with new_figure((1.7 + 0.95 * len(bins), 3.2), theme) as figure:
        axis = figure.subplots()
        axis.pcolormesh(
            parts, cmap=theme.shades(theme.first), vmin=-0.08, vmax=1, edgecolors=theme.paper,
            linewidth=1.5,
        )  # fmt: skip
        for row, column in np.ndindex(parts.shape):
            part = float(parts[row, column])
            axis.text(
                column + 0.5, row + 0.5, _percent(part), ha="center", va="center",
                color=theme.paper if part > 0.5 else theme.ink,
            )  # fmt: skip
        axis.set_yticks(np.arange(len(borne)) + 0.5, list(borne))
        names = [f"{name}\n{inside.sum():,}" for name, inside in bins.items()]
        axis.set_xticks(np.arange(len(bins)) + 0.5, names)
        axis.invert_yaxis()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        figure.supxlabel("S/N per pixel, and number of spectra")
    return figure


def _bins(sample: Sample) -> dict[str, NDArray[np.bool_]]:
    """Which spectra are in each range of S/N, those of unknown S/N last; no empty ranges."""
    bins = {**snr_bins(sample.snr, _EDGES), "unknown": np.isnan(sample.snr)}
    return {name.replace("-", "–"): inside for name, inside in bins.items() if inside.any()}


def _borne(bits: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    return {
        **{flag.column: np.asarray((bits & flag.value) != 0) for flag in ResultFlag},
        "flag_warn": np.asarray(bits != 0),
        "flag_bad": np.asarray((bits & BAD.value) == BAD.value),
    }


def _percent(part: float) -> str:
    if 0 < part < 0.001:
        return "< 0.1 %"
    return f"{100 * part:.0f} %" if part >= 0.1 or part == 0 else f"{100 * part:.1f} %"
