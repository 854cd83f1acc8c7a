"""The pictures of the demonstration; matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from worker.array_types import Floats
from worker.identity import COADD
from worker.labels import LABEL_NAMES, LABELS
from worker.pictures.style import BLUE, ORANGE, figure_at
from worker.spectra.pixels import CUT_CHIPS, wavelength

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import FigureBase


_ABUNDANCES = [label for label in LABELS if label.name not in ("teff", "logg")]


def draw_planes(path: Path, known: Floats, predicted: Floats, e_predicted: Floats) -> None:
    """The Kiel diagram and [Mg/Fe] against [Fe/H], of the truth and of the results.

    Parameters
    ----------
    known, predicted, e_predicted
        ``(n, 22)`` labels of coadds in the order of :data:`worker.labels.LABELS`.
    """
    with figure_at(path, (9.0, 7.6)) as figure:
        axes = figure.subplots(2, 2, sharex="row", sharey="row")
        for column, (name, labels, errors) in enumerate(
            (("the truth", known, None), ("what the stream finds", predicted, e_predicted))
        ):
            points = _kiel(axes[0, column], labels, errors)
            _magnesium(axes[1, column], labels, errors)
            axes[0, column].set_title(name)
        axes[0, 0].invert_xaxis()
        axes[0, 0].invert_yaxis()
        axes[0, 0].set_ylabel(r"$\log\,g$ (dex)")
        axes[1, 0].set_ylabel("[Mg/Fe] (dex)")
        bar = figure.colorbar(points, ax=axes, location="right", aspect=40, pad=0.02)
        bar.set_label("[Fe/H] (dex)")


def _kiel(axis: Axes, labels: Floats, errors: Floats | None) -> PathCollection:
    teff, logg, fe_h = (labels[:, LABEL_NAMES.index(name)] for name in ("teff", "logg", "fe_h"))
    if errors is not None:
        _error_bars(
            axis,
            teff,
            logg,
            errors[:, LABEL_NAMES.index("teff")],
            errors[:, LABEL_NAMES.index("logg")],
        )
    axis.set_xlabel(r"$T_\mathrm{eff}$ (K)")
    return _points(axis, teff, logg, fe_h)


def _magnesium(axis: Axes, labels: Floats, errors: Floats | None) -> None:
    magnesium, fe_h = (labels[:, LABEL_NAMES.index(name)] for name in ("mg_h", "fe_h"))
    if errors is not None:
        e_mg, e_fe = (errors[:, LABEL_NAMES.index(name)] for name in ("mg_h", "fe_h"))
        _error_bars(axis, fe_h, magnesium - fe_h, e_fe, np.hypot(e_mg, e_fe))
    axis.set_xlabel("[Fe/H] (dex)")
    _points(axis, fe_h, magnesium - fe_h, fe_h)


def _points(axis: Axes, x: Floats, y: Floats, colour: Floats) -> PathCollection:
    return axis.scatter(
        x, y, c=colour, cmap="viridis", vmin=-1.5, vmax=0.4, s=16, linewidths=0.3,
        edgecolors="white", zorder=3,
    )  # fmt: skip


def _error_bars(axis: Axes, x: Floats, y: Floats, e_x: Floats, e_y: Floats) -> None:
    axis.errorbar(x, y, e_y, e_x, fmt="none", ecolor="#bbbbbb", elinewidth=0.6, zorder=1)


def draw_star(path: Path, flux: Floats, rows: Table, known: Floats) -> None:
    """One star: its normalised coadd, and its abundances beside the truth.

    Parameters
    ----------
    flux
        ``(7514,)`` normalised flux of the coadd.
    rows
        Its rows in the table of results, the coadd first.
    known
        ``(22,)`` true labels.
    """
    with figure_at(path, (10.0, 5.8)) as figure:
        grid = figure.add_gridspec(2, 1, height_ratios=[1, 1.15])
        top, bottom = (figure.add_subfigure(grid[row]) for row in range(2))
        _spectrum(top, flux)
        coadd = rows[0]
        top.suptitle(
            f"{coadd['obj']} (simulated)    S/N {coadd['snr']:.0f}    "
            f"$T_\\mathrm{{eff}}$ {coadd['teff']:.0f} ± {coadd['e_teff']:.0f} K, "
            f"true {known[LABEL_NAMES.index('teff')]:.0f}    "
            f"$\\log\\,g$ {coadd['logg']:.2f} ± {coadd['e_logg']:.2f}, "
            f"true {known[LABEL_NAMES.index('logg')]:.2f}"
        )
        _abundances(bottom.subplots(), rows, known)


def _spectrum(figure: FigureBase, flux: Floats) -> None:
    sizes = [chip.stop - chip.start for chip in CUT_CHIPS.values()]
    axes = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": sizes})
    for axis, chip in zip(axes, CUT_CHIPS.values(), strict=True):
        axis.plot(wavelength()[chip], flux[chip], color="black", linewidth=0.4)
        axis.set_xlim(*wavelength()[chip][[0, -1]])
        axis.xaxis.get_major_locator().set_params(nbins=5, prune="both")
    axes[0].set_ylim(flux.min() - 0.03, 1.15)
    axes[0].set_ylabel("normalised flux")
    axes[1].set_xlabel("wavelength in vacuum, rest frame (Å)")


def _abundances(axis: Axes, rows: Table, known: Floats) -> None:
    places = np.arange(len(_ABUNDANCES))
    for number, row in enumerate(rows):
        coadd = row["kind"] == COADD
        axis.errorbar(
            places + (number - (len(rows) - 1) / 2) * 0.16,
            [row[label.name] for label in _ABUNDANCES],
            [row[f"e_{label.name}"] for label in _ABUNDANCES],
            fmt="o" if coadd else "s",
            markersize=5 if coadd else 4,
            color=BLUE if coadd else ORANGE,
            markerfacecolor=BLUE if coadd else "white",
            linewidth=1,
            label="coadd" if coadd else ("visits" if number == 1 else None),
        )
    truth = [known[LABEL_NAMES.index(label.name)] for label in _ABUNDANCES]
    axis.hlines(truth, places - 0.4, places + 0.4, color="black", linewidth=1.2, label="truth")
    axis.set_xticks(places, [label.description.split("/")[0][1:] for label in _ABUNDANCES])
    axis.set_ylabel("[X/H] (dex)")
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=3)
