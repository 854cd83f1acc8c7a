"""Draws the README's picture from the table of the main job.

uv run docs/first_picture.py labels.fits FOLDER_OF_SPECTRA docs/first_picture.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes

from worker.labels import LABELS
from worker.messages import COADD, SpectrumReference
from worker.spectra.load import load_spectra
from worker.spectra.pixels import CUT_CHIPS, wavelength

STAR = "2M00452143+1634446"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#555555"  # told apart by colour-blind readers


def draw_spectrum(axes: list[Axes], file: Path) -> None:
    """The normalised coadd, chip by chip."""
    reference = SpectrumReference(job=0, spectrum=0, path=file.name, member=COADD)
    flux = load_spectra([reference], file.parent, "and").flux[0]
    for axis, chip in zip(axes, CUT_CHIPS.values(), strict=True):
        axis.plot(wavelength()[chip], flux[chip], color="black", linewidth=0.4)
        axis.set_xlim(*wavelength()[chip][[0, -1]])
        axis.set_ylim(0.65, 1.35)
        axis.margins(0)
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    axes[0].set_ylabel("normalised flux")
    axes[1].set_xlabel("wavelength in vacuum, rest frame [Å]")


def draw_labels(axis: Axes, rows: Table) -> None:
    """Abundances of the coadd and of its visits, with their uncertainties."""
    # The test weights give phosphorus an uncertainty of hundreds of dex, as DR17's do.
    elements = [label for label in LABELS if label.name not in ("teff", "logg", "p_h")]
    places = np.arange(len(elements))
    for number, row in enumerate(rows):
        coadd = row["kind"] == COADD
        axis.errorbar(
            places + (number - (len(rows) - 1) / 2) * 0.16,
            [row[label.name] for label in elements],
            [row[f"e_{label.name}"] for label in elements],
            fmt="o" if coadd else "s",
            markersize=5 if coadd else 4,
            color=BLUE if coadd else ORANGE,
            markerfacecolor=BLUE if coadd else "white",
            linewidth=1,
            label="coadd" if coadd else ("visits" if number == 1 else None),
        )
    axis.set_xticks(places, [label.description.split("/")[0][1:] for label in elements])
    axis.set_ylabel("[X/H] [dex]")
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="upper right", frameon=False, ncols=2)


def main() -> None:
    """Read a table and draw."""
    table, folder, out = Table.read(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    rows = table[[STAR in row["path"] for row in table]]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(9, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    axes = list(top.subplots(1, 3, gridspec_kw={"width_ratios": [3028, 2495, 1991]}))
    draw_spectrum(axes, folder / rows["path"][0].rsplit("/")[-1])
    coadd = rows[0]
    top.suptitle(
        f"{STAR}   S/N {coadd['snr']:.0f}   "
        f"Teff {coadd['teff']:.0f} ± {coadd['e_teff']:.0f} K   "
        f"log g {coadd['logg']:.2f} ± {coadd['e_logg']:.2f}",
        fontsize=10,
    )
    draw_labels(bottom.subplots(), rows)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
