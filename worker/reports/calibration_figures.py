"""The pictures of a calibration; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worker.array_types import Floats
from worker.calibration.calibration import width
from worker.calibration.widths import LabelPulls
from worker.labels import Label
from worker.pictures.style import BLUE, GREY, ORANGE, SNR_TICKS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 4.0
_MOST_BINS, _LEAST_IN_BIN = 8, 40


def draw_pulls(path: Path, pulls: Mapping[Label, LabelPulls]) -> None:
    """The distribution of z of each label, before and after, beside a unit normal."""
    bins = np.linspace(-_SHOWN, _SHOWN, 41)
    normal = np.linspace(-_SHOWN, _SHOWN, 161)
    with panels(path, "z of pairs of visits", "density", pulls) as (_figure, axes, spare):
        for axis, each in zip(axes, pulls.values(), strict=True):
            axis.plot(normal, np.exp(-0.5 * normal**2) / np.sqrt(2 * np.pi), color=ORANGE)
            axis.set(xlim=(-_SHOWN, _SHOWN), yticks=[])
            if not len(each.after):
                continue
            _histogram(axis, each.after, each.weight, bins, filled=True)
            _histogram(axis, each.before, each.weight, bins, filled=False)
            axis.set_ylim(0, 1.3 * axis.dataLim.y1)
            before, after = (width(z, each.weight) for z in (each.before, each.after))
            axis.text(
                0.04, 0.96, f"{before:.2f} → {after:.2f}", transform=axis.transAxes, va="top",
                fontsize=7,
            )  # fmt: skip
        handles = [
            spare.plot([], [], color=GREY, linewidth=1.2, label="network's uncertainties")[0],
            spare.fill_between([], [], color=BLUE, alpha=0.4, label="after the noise model"),
            spare.plot([], [], color=ORANGE, label="unit normal")[0],
        ]
        spare.legend(
            handles=handles, loc="center", frameon=False, fontsize=8,
            title="numbers: width before → after", title_fontsize=8,
        )  # fmt: skip


def _histogram(axis: Axes, z: Floats, weight: Floats, bins: Floats, *, filled: bool) -> None:
    """Of all pairs; those beyond the picture count in the density, so that tails show."""
    counts, _ = np.histogram(z, bins, weights=weight)
    density = counts / weight.sum() / np.diff(bins)
    if filled:
        axis.stairs(density, bins, fill=True, color=BLUE, alpha=0.4)
    else:
        axis.stairs(density, bins, color=GREY, linewidth=1.2)


def draw_widths(path: Path, pulls: Mapping[Label, LabelPulls]) -> None:
    """The width of z of each label against S/N, before and after."""
    x, y = "S/N per pixel, the lower of a pair", "width of z"
    with panels(path, x, y, pulls) as (_figure, axes, spare):
        for axis, each in zip(axes, pulls.values(), strict=True):
            axis.axhline(1, color=ORANGE, linewidth=1.0)
            place, before, after = _running(each)
            axis.plot(place, before, "s-", color=GREY, markerfacecolor="white", markersize=3.5)
            axis.plot(place, after, "o-", color=BLUE, markersize=3.5)
            axis.set(xscale="log", ylim=(0, 1.15 * max([1.3, *before, *after])))
            axis.set_xticks(SNR_TICKS, [str(tick) for tick in SNR_TICKS])
            axis.set_xticks([], minor=True)
            axis.set_xlim(7, 450)
        handles = [
            spare.plot([], [], "s-", color=GREY, markerfacecolor="white", markersize=3.5,
                       label="network's uncertainties")[0],
            spare.plot([], [], "o-", color=BLUE, markersize=3.5, label="after the noise model")[0],
            spare.plot([], [], color=ORANGE, label="uncertainties that are right")[0],
        ]  # fmt: skip
        spare.legend(handles=handles, loc="center", frameon=False, fontsize=8)


def _running(each: LabelPulls) -> tuple[list[float], list[float], list[float]]:
    """Median S/N and both widths, in bins of equal number."""
    known = np.flatnonzero(np.isfinite(each.snr))
    if len(known) < _LEAST_IN_BIN:
        return [], [], []
    n_bins = min(_MOST_BINS, len(known) // _LEAST_IN_BIN)
    parts = np.array_split(known[np.argsort(each.snr[known])], n_bins)
    return (
        [float(np.median(each.snr[part])) for part in parts],
        [width(each.before[part], each.weight[part]) for part in parts],
        [width(each.after[part], each.weight[part]) for part in parts],
    )
