"""The plain way to normalised spectra, as the peers go it: astropy and astroNN, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.file_names import name_on_disk
from worker.identity import COADD, Place
from worker.spectra.oracle import astronn_apogee
from worker.spectra.pixels import cut_gaps

apogee_continuum = astronn_apogee().apogee_continuum


def row_by_row(folder: Path, spectra: Sequence[Place], coadd_mask: str) -> NDArray[np.float32]:
    """The plain way: for every spectrum its file is opened. Gives ``(n, 7514)``."""
    rows = []
    for spectrum in spectra:
        with fits.open(folder / name_on_disk(spectrum.path), memmap=False) as hdus:
            rows.append(_normalised(hdus, spectrum.member, coadd_mask))
    return np.stack(rows).astype(np.float32)


def file_by_file(folder: Path, spectra: Sequence[Place], coadd_mask: str) -> NDArray[np.float32]:
    """A kinder plain way: every file is opened once. Gives ``(n, 7514)``."""
    rows = []
    for path, members in groupby(spectra, key=lambda spectrum: spectrum.path):
        with fits.open(folder / name_on_disk(path), memmap=False) as hdus:
            rows += [_normalised(hdus, each.member, coadd_mask) for each in members]
    return np.stack(rows).astype(np.float32)


def _normalised(hdus: fits.HDUList, member: str, coadd_mask: str) -> Floats:
    flux, error, mask = (np.atleast_2d(hdus[number].data) for number in (1, 2, 3))
    if coadd_mask == "and" and mask.dtype.itemsize == 2 and len(mask) > 2:  # of DR12 to DR16
        mask = np.concatenate([np.bitwise_and.reduce(mask[2:], axis=0)[None], mask[1:]])
    row = _row_of(hdus, member, len(flux))
    return _by_astronn(flux[row], error[row], mask[row])


def _row_of(hdus: fits.HDUList, member: str, n_rows: int) -> int:
    if member == COADD:
        return 0
    header = hdus[0].header
    names = [header[f"SFILE{n + 1}"] for n in range(header["NVISITS"])]
    return names.index(member) + (2 if n_rows > 2 else 0)


def _by_astronn(flux: NDArray[Any], error: NDArray[Any], mask: NDArray[Any]) -> Floats:
    """One row as astroNN normalises it; pixels without flux have no weight."""
    missing = ~np.isfinite(flux)
    with np.errstate(all="ignore"):
        ivar = error.astype(np.float64) ** -2
        ivar[~np.isfinite(ivar) | missing] = 0.0
        flux = np.where(missing, 0.0, flux.astype(np.float64))
        normalised = apogee_continuum(flux, ivar**-0.5, bitmask=mask.astype(np.int32), dr=17)[0]
    return np.where(cut_gaps(missing), 1.0, normalised[0])
