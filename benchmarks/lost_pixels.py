"""How labels move when a part of a chip is taken away: whence the limits of chip_content come.

Zeros are what the file holds where nothing was measured, NaN what the network reads as continuum.

    nice uv run --group dev -m benchmarks.lost_pixels FOLDER

FOLDER holds real apStar files. The limits themselves are lifted.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from unittest import mock

import numpy as np

from worker import infer
from worker.spectra import chip_content
from worker.spectra.formats import read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.spectra.pixels import CHIPS

PARTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


def without(
    star: SpectrumArrays, chip: slice, part: float, kind: str, value: float, seed: int
) -> np.ndarray:
    """The star's flux with this value in a part of a chip, in one block or here and there."""
    rng = np.random.default_rng(seed)
    size, flux = chip.stop - chip.start, star.flux.copy()
    lost = int(part * size)
    block = rng.integers(size - lost) + np.arange(lost)
    flux[chip.start + (block if kind == "block" else rng.permutation(size)[:lost])] = value
    return flux


def main(folder: Path) -> None:
    """Print the median and the largest change for each part, all stars and chips together."""
    stars = [read_spectra(path, ["coadd"])[0] for path in sorted(folder.rglob("apStar-*.fits"))]
    seeds = itertools.count()
    for kind, value, part in itertools.product(("random", "block"), (0.0, np.nan), PARTS):
        cases = list(itertools.product(range(len(stars)), CHIPS.values()))
        flux = [without(stars[n], chip, part, kind, value, next(seeds)) for n, chip in cases]
        table = infer(
            flux,
            [stars[n].error for n, _ in cases],
            [stars[n].mask for n, _ in cases],
            [str(n) for n, _ in cases],
            weights="demonstration",
            mc_samples=20,
        )
        if part == 0:
            whole = table
            continue
        moved = {name: np.abs(table[name] - whole[name]) for name in ("teff", "logg", "fe_h")}
        moved["teff / its e"] = moved["teff"] / table["e_teff"]
        figures = (
            f"{name} {np.nanmedian(m):.2g} ({np.nanmax(m):.2g})" for name, m in moved.items()
        )
        print(kind, value, part, *figures, sep=", ", flush=True)


if __name__ == "__main__":
    with mock.patch.multiple(chip_content, MOST_ZEROS=1.0, MOST_EMPTY=1.0):
        main(Path(sys.argv[1]))
