"""Where the stars are: the Kiel diagram, and abundances against [Fe/H].

A star is shown once, by its coadd; where there are no coadds, visits are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.flags import BAD, ResultFlag
from worker.labels import LABELS, Label
from worker.pictures.points import Points, draw_coloured, draw_plain
from worker.pictures.sample import Sample
from worker.pictures.style import NothingToDrawError, Theme, label_panels, new_figure, symbol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ELEMENTS = [label for label in LABELS if label.name not in ("teff", "logg", "fe_h")]
_FE_H, _COLUMNS = "[Fe/H] (dex)", 5


def kiel(sample: Sample, theme: Theme) -> Figure:
    """The Kiel diagram, coloured by [Fe/H].

    Raises
    ------
    NothingToDrawError
        No spectrum has these labels.
    """
    shown, told = _stars(sample, "teff", "logg", "fe_h")
    (teff, e_teff), (logg, e_logg) = shown.label("teff"), shown.label("logg")
    with new_figure((6.0, 4.8), theme) as figure:
        axis = figure.subplots()
        drawn = draw_coloured(
            axis, Points(teff, logg, e_teff, e_logg), shown.label("fe_h")[0], theme
        )
        axis.invert_xaxis()
        axis.invert_yaxis()
        axis.set_title(told, loc="left")
        axis.set(xlabel=r"$T_\mathrm{eff}$ (K)", ylabel=r"$\log\,g$ (dex)")
        figure.colorbar(drawn, ax=axis, extend="both", aspect=35).set_label(_FE_H)
    return figure


def magnesium(sample: Sample, theme: Theme) -> Figure:
    """[Mg/Fe] against [Fe/H], coloured by surface gravity.

    Raises
    ------
    NothingToDrawError
        No spectrum has these labels.
    """
    shown, told = _stars(sample, "mg_h", "fe_h", "logg")
    with new_figure((6.0, 4.4), theme) as figure:
        axis = figure.subplots()
        drawn = draw_coloured(axis, _over_iron(shown, "mg_h"), shown.label("logg")[0], theme)
        axis.set_title(told, loc="left")
        axis.set(xlabel=_FE_H, ylabel="[Mg/Fe] (dex)")
        bar = figure.colorbar(drawn, ax=axis, extend="both", aspect=35)
        bar.set_label(r"$\log\,g$ (dex)")
    return figure


def planes(sample: Sample, theme: Theme) -> Figure:
    """[X/Fe] against [Fe/H], a panel for each of the elements and species that stars have.

    Raises
    ------
    NothingToDrawError
        No spectrum has [Fe/H] and another abundance.
    """
    shown, told = _stars(sample, "fe_h")
    elements = [label for label in _ELEMENTS if label.name in shown.known]
    if not elements:
        raise NothingToDrawError("No spectrum has an abundance besides [Fe/H].")
    rows = len(elements) // _COLUMNS + 1
    with new_figure((11.0, 2 * rows), theme) as figure:
        titles = [_over_iron_symbol(label) for label in elements]
        axes, spare = label_panels(figure, titles, _COLUMNS, _FE_H, "[X/Fe] (dex)")
        for axis, label in zip(axes, elements, strict=True):
            points = _over_iron(shown.having(label.name), label.name)
            draw_plain(axis, points, theme)
            axis.locator_params(axis="x", nbins=3)
            axis.axhline(0, color=theme.grey, linewidth=0.6, zorder=0)
        explained = "shade: number of stars\ncross: typical uncertainty" if points.dense else ""
        spare.text(
            0.5, 0.5, f"{told}\n{explained}".strip(), ha="center", va="center", linespacing=1.6,
            wrap=True,
        )  # fmt: skip
    return figure


def _stars(sample: Sample, *names: str) -> tuple[Sample, str]:
    """The results that stand for stars, with these labels, and a line that says what they are."""
    labelled = sample.only(sample.labelled)
    if not len(labelled):
        raise NothingToDrawError("No spectrum has labels.")
    labelled = labelled.having(*names)
    if not len(labelled):
        raise NothingToDrawError(f"No spectrum has {', '.join(names)}.")
    kind = "coadds" if labelled.coadds.any() else "visits"
    stars = labelled.only(labelled.coadds) if kind == "coadds" else labelled
    unlike = ResultFlag.UNLIKE_TRAINING  # their labels mean nothing
    left_out = {
        name: (stars.flags & flag.value) == flag.value
        for name, flag in (("flag_bad", BAD), (unlike.column, unlike))
    }
    shown = stars.only(~np.logical_or.reduce(list(left_out.values())))
    found = {name: int(rows.sum()) for name, rows in left_out.items() if rows.any()}
    if not len(shown):
        raise NothingToDrawError(f"All {kind} that have labels are {' or '.join(found)}.")
    without = ", ".join(f"{count:,} {name}" for name, count in found.items())
    return shown, f"{kind}: {len(shown):,}{f', without {without}' if without else ''}"


def _over_iron(sample: Sample, name: str) -> Points:
    """[X/Fe] against [Fe/H]; its uncertainty is an upper bound, for errors of both correlate."""
    (abundance, error), (fe_h, e_fe_h) = sample.label(name), sample.label("fe_h")
    return Points(fe_h, abundance - fe_h, e_fe_h, np.hypot(error, e_fe_h))


def _over_iron_symbol(label: Label) -> str:
    return symbol(label).replace("/H]", "/Fe]")
