"""The page of one spectrum: what the network reads of it, and the labels that it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import SpectrumError
from worker.flags import DESCRIPTIONS, ResultFlag
from worker.identity import Place
from worker.labels import LABELS
from worker.pictures.style import Theme, new_figure, symbol
from worker.spectra.formats import read_spectra
from worker.spectra.load import load_spectra, resolve_inside
from worker.spectra.pixels import CUT_CHIPS, MASKED_BITS, N_PIXELS, cut_gaps, wavelength
from worker.spectra.windows import element_window
from worker.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ELEMENTS = [label for label in LABELS if label.element is not None]
#: How much of the flux is shown, in percentiles; deep lines and spikes beyond are cut off.
_SHOWN = (0.1, 99.9)


@dataclass(frozen=True)
class Seen:
    """A spectrum as the network reads it.

    ``flux`` is ``(7514,)`` normalised flux; ``masked`` ``(7514,)`` says which of its pixels are 1
    because the mask of the file says that they are bad.
    """

    flux: NDArray[np.float64]
    masked: NDArray[np.bool_]


def read_seen(root: Path, path: str, member: str, coadd_mask: str) -> Seen:
    """Read and normalise a spectrum as a loader does.

    Parameters
    ----------
    root, path
        The data root, itself without symbolic links, and a file relative to it.
    member
        ``coadd`` or the name of an apVisit file.
    coadd_mask
        See :func:`worker.spectra.formats.apstar.read_spectra`.

    Raises
    ------
    SpectrumError
        There is no such spectrum, or it carries no information.
    """
    loaded = load_spectra([Place(path, member)], root, coadd_mask)
    for _, reason in loaded.failures:
        raise SpectrumError(reason)
    (row,) = read_spectra(resolve_inside(root, path), [member], coadd_mask=coadd_mask)
    if isinstance(row, SpectrumError):
        raise row
    return Seen(loaded.flux[0].astype(np.float64), cut_gaps(row.mask & MASKED_BITS) != 0)


def spectrum_page(seen: Seen, heading: str, row: Mapping[str, Any] | None, theme: Theme) -> Figure:
    """Normalised flux of each chip above the windows of the elements, and the labels beside it.

    Parameters
    ----------
    heading
        What the spectrum is called.
    row
        Its row of a table of results; None where it has none.
    """
    with new_figure((12.0, 9.0), theme) as figure:
        grid = figure.add_gridspec(1, 2, width_ratios=[4.6, 1])
        flux, labels = (figure.add_subfigure(grid[column]) for column in range(2))
        flux.suptitle(_plain(heading), x=0.01, ha="left", fontsize=10)
        axes = flux.subplots(6, 1, gridspec_kw={"height_ratios": [1.25, 1] * 3})
        low, high = np.percentile(seen.flux, _SHOWN)
        for number, (name, chip) in enumerate(CUT_CHIPS.items()):
            _flux(axes[2 * number], seen, chip, theme)
            axes[2 * number].set_ylim(low - 0.08, high + 0.05)
            axes[2 * number].set_ylabel(f"flux, {name} chip")
            _windows(axes[2 * number + 1], chip, theme)
        axes[-1].set_xlabel("wavelength in vacuum, rest frame (Å)")
        masked = int(seen.masked.sum())
        _key(axes[0], f"masked pixels ({masked:,} of {N_PIXELS:,})", theme)
        _labels(labels.subplots(), row, theme)
    return figure


def _flux(axis: Axes, seen: Seen, chip: slice, theme: Theme) -> None:
    place = wavelength()[chip]
    axis.axhline(1, color=theme.grid, linewidth=0.8, zorder=0)
    axis.plot(place, seen.flux[chip], color=theme.ink, linewidth=0.5)
    masked = place[seen.masked[chip]]
    axis.plot(
        masked, np.full(len(masked), 0.03), "|", color=theme.second, markersize=5,
        markeredgewidth=0.8, transform=axis.get_xaxis_transform(),
    )  # fmt: skip
    axis.set_xlim(place[0], place[-1])
    axis.tick_params(labelbottom=False)


def _key(axis: Axes, text: str, theme: Theme) -> None:
    axis.plot([], [], "|", color=theme.second, markersize=7, markeredgewidth=1.2, label=text)
    axis.legend(
        loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderpad=0, handlelength=1
    )


def _windows(axis: Axes, chip: slice, theme: Theme) -> None:
    """A row for each element with its windows; names stand left and right in turn."""
    place = wavelength()[chip]
    for lane, label in enumerate(_ELEMENTS):
        runs = list(_runs(element_window(str(label.element))[chip]))
        # Half a pixel more on either side: a window of one pixel has a width, too.
        spans = [(place[a] - 0.1, place[b] - place[a] + 0.2) for a, b in runs]
        axis.broken_barh(spans, (lane - 0.35, 0.7), color=theme.first, linewidth=0.4)
    for lane in range(len(_ELEMENTS)):
        axis.axhline(lane + 0.5, color=theme.grid, linewidth=0.4, zorder=0)
    names = [symbol(label).strip("[]").removesuffix("/H") for label in _ELEMENTS]
    other = axis.secondary_yaxis("right")
    for side, first in ((axis, 0), (other, 1)):
        side.set_yticks(range(first, len(_ELEMENTS), 2), names[first::2])
        side.tick_params(axis="y", length=0, labelsize=6.5)
    axis.spines["left"].set_visible(False)
    other.spines["right"].set_visible(False)
    axis.set(xlim=(place[0], place[-1]), ylim=(len(_ELEMENTS) - 0.5, -0.5))


def _runs(inside: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and last position of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    yield from ((int(a), int(b) - 1) for a, b in edges.reshape(-1, 2))


def _labels(axis: Axes, row: Mapping[str, Any] | None, theme: Theme) -> None:
    """The labels with their uncertainties as a table, or why there are none."""
    axis.set_axis_off()
    axis.set(xlim=(0, 1), ylim=(26.5, -1))
    if row is None:
        axis.text(0, 0, "no labels in these results", color=theme.grey)
        return
    bits = int(row["result_flags"])
    if bits & ResultFlag.NO_RESULT.value:
        axis.text(0, 0, f"no labels: {_plain(str(row['no_result_reason']))}", wrap=True, va="top")
        return
    for line, label in enumerate(LABELS):
        digits = 0 if label.unit == "K" else 2 if label.name == "logg" else 3
        value, error = (float(row[prefix + label.name]) for prefix in ("", "e_"))
        axis.text(0, line, symbol(label))
        if not np.isfinite(value):
            axis.text(0.67, line, "not learnt", color=theme.grey)
            continue
        axis.text(0.62, line, f"{value:.{digits}f}".replace("-", "−"), ha="right")
        axis.text(0.67, line, f"± {error:.{digits}f} {label.unit}")
    borne = [flag.column for flag in DESCRIPTIONS if bits & flag.value]
    axis.text(0, 23, "\n".join(borne or ["no flags"]), color=theme.second if borne else theme.grey,
              va="top")  # fmt: skip


def _plain(text: str) -> str:
    """A text from a file, escaped so that matplotlib finds no formula in it."""
    return printable(text).replace("$", r"\$")
