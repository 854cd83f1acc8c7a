"""The pictures of a comparison with known labels; matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.comparison.evaluation import Evaluated
from worker.comparison.statistics import GAUSSIAN, Numbers, spread
from worker.labels import LABEL_NAMES, LABELS
from worker.pictures.points import running
from worker.pictures.style import (
    BLUE,
    GREY,
    ORANGE,
    SNR_TICKS,
    figure_at,
    limits,
    panels,
    snr_axis,
    symbol,
    title,
)

#: More points take long to draw and hide one another.
_MOST_DRAWN = 20_000


def draw_predicted(path: Path, evaluated: Evaluated) -> None:
    """Predicted against known, a panel for each label, coloured by S/N."""
    shown = evaluated.learnt
    with panels(path, "known", "predicted", shown.values()) as (figure, axes, spare):
        colours = np.log10(np.where(np.isfinite(evaluated.snr), evaluated.snr, 1.0))
        points = None
        for position, axis in zip(shown, axes, strict=True):
            known, predicted = evaluated.known[:, position], evaluated.predicted[:, position]
            valid = np.isfinite(predicted - known)
            if not valid.any():
                continue
            low, high = limits(np.concatenate([known[valid], predicted[valid]]))
            drawn = _drawn(valid)
            order = drawn[np.argsort(colours[drawn])]
            points = axis.scatter(
                known[order], predicted[order], c=colours[order], s=3, linewidths=0,
                cmap="viridis", vmin=1.0, vmax=2.5, rasterized=True,
            )  # fmt: skip
            axis.plot([low, high], [low, high], color=ORANGE, linewidth=0.9)
            axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            scatter = spread((predicted - known)[valid])["scatter"]
            axis.text(
                0.04, 0.95, f"scatter {_short(scatter)}", transform=axis.transAxes, va="top",
                fontsize=7,
            )  # fmt: skip
        if points is not None:
            place = spare.inset_axes((0.05, 0.45, 0.9, 0.09))
            bar = figure.colorbar(points, cax=place, orientation="horizontal")
            bar.set_label("S/N per pixel")
            bar.set_ticks(np.log10(SNR_TICKS).tolist(), labels=[str(tick) for tick in SNR_TICKS])


def draw_residuals(path: Path, evaluated: Evaluated) -> None:
    """Residuals against S/N, with their running median and the middle 68 per cent."""
    shown = evaluated.learnt
    with panels(path, "S/N per pixel", "predicted − known", shown.values()) as (_, axes, spare):
        for position, axis in zip(shown, axes, strict=True):
            residual = evaluated.residuals[:, position]
            valid = np.isfinite(residual) & (evaluated.snr > 0)
            if not valid.any():
                continue
            drawn = _drawn(valid)
            axis.scatter(
                evaluated.snr[drawn], residual[drawn], s=2.5, color=GREY, alpha=0.45, linewidths=0
            )
            axis.axhline(0, color="black", linewidth=0.7)
            snr, residual = evaluated.snr[valid], residual[valid]
            place, low, middle, high = running(snr, residual)
            axis.fill_between(place, low, high, color=BLUE, alpha=0.3, linewidth=0)
            axis.plot(place, middle, color=BLUE, linewidth=1.2)
            end = max(np.abs(limits(residual)))
            axis.set_ylim(-end, end)
            snr_axis(axis, snr)
        handles = [
            spare.plot([], [], "o", color=GREY, markersize=3, label="a spectrum")[0],
            spare.plot([], [], color=BLUE, linewidth=1.2, label="running median")[0],
            spare.fill_between([], [], color=BLUE, alpha=0.3, label="16th to 84th percentile"),
        ]
        spare.legend(handles=handles, loc="center", frameon=False, fontsize=8)


def draw_diagram(path: Path, evaluated: Evaluated) -> None:
    """The Kiel diagram of the known labels, coloured by how far off each label of it is."""
    teff, logg = (evaluated.known[:, LABEL_NAMES.index(name)] for name in ("teff", "logg"))
    with figure_at(path, (11.0, 3.9)) as figure:
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
        for axis, name in zip(axes, ("teff", "logg", "fe_h"), strict=True):
            position = LABEL_NAMES.index(name)
            residual = evaluated.residuals[:, position]
            drawn = _drawn(np.isfinite(residual + teff + logg))
            axis.set(title=title(LABELS[position]), xlabel=r"known $T_\mathrm{eff}$ (K)")
            if not len(drawn):
                axis.text(0.5, 0.5, "nothing to compare", ha="center", transform=axis.transAxes)
                continue
            end = float(np.percentile(np.abs(residual[drawn]), 95)) or 1.0
            points = axis.scatter(
                teff[drawn], logg[drawn], c=residual[drawn], s=7, linewidths=0.15,
                edgecolors=GREY, cmap="RdBu_r", vmin=-end, vmax=end, rasterized=True,
            )  # fmt: skip
            figure.colorbar(points, ax=axis, extend="both", label="predicted − known")
        axes[0].set_ylabel(r"known $\log\,g$ (dex)")
        axes[0].invert_xaxis()
        axes[0].invert_yaxis()


def draw_calibration(path: Path, numbers: dict[str, Numbers]) -> None:
    """Parts of the residuals within 1, 2 and 3 sigma, label by label, before and after."""
    with figure_at(path, (9.0, 6.0)) as figure:
        axes = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [1.6, 1, 1]})
        shown = [label for label in LABELS if label.name in numbers]
        places = np.arange(len(shown))
        for index, (axis, expected) in enumerate(zip(axes, GAUSSIAN, strict=True)):
            for state, colour, face in (("before", GREY, "white"), ("after", BLUE, BLUE)):
                fractions = [
                    (numbers[label.name]["by_snr"]["all"][f"within_{state}"] or [np.nan] * 3)[index]
                    for label in shown
                ]
                axis.plot(
                    places, fractions, "o", color=colour, markerfacecolor=face, markersize=5,
                    label=f"{state} the noise model",
                )  # fmt: skip
            axis.axhline(expected, color=ORANGE, linewidth=1.0, label="Gaussian")
            axis.set_ylabel(f"within {index + 1}σ")
            axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
            axis.set_axisbelow(True)
        names = [symbol(label) for label in shown]
        axes[-1].set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor")
        axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
        figure.suptitle("Fraction of residuals within 1, 2 and 3 of their uncertainties")


def draw_losses(path: Path, losses: list[dict[str, float]], best_epoch: int) -> None:
    """Training and validation loss, and the learning rate, by epoch."""
    with figure_at(path, (6.0, 4.5)) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        epochs = np.arange(1, len(losses) + 1)
        top.plot(epochs, [row["training"] for row in losses], "o-", color=ORANGE, markersize=3,
                 label="training")  # fmt: skip
        top.plot(epochs, [row["validation"] for row in losses], "s-", color=BLUE, markersize=3,
                 label="validation")  # fmt: skip
        top.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle=":", label="best epoch")
        top.set_ylabel("robust loss")
        top.legend(frameon=False)
        bottom.plot(epochs, [row["learning_rate"] for row in losses], color="black", linewidth=1)
        bottom.set(xlabel="epoch", ylabel="learning rate", yscale="log")
        bottom.xaxis.get_major_locator().set_params(integer=True)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3f}"


def _drawn(valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The spectra that a panel shows, evenly taken of those that it could show."""
    rows = np.flatnonzero(valid)
    return rows[:: max(1, -(-len(rows) // _MOST_DRAWN))]
