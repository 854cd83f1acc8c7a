"""Results of a few stars in a file, and tables of their known labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from tests.inputs.result_rows import result, spectrum, store
from worker.database.session import opened
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES, LABELS
from worker.results.read import RowSelection
from worker.tables.export import write_results

ERRORS = np.array([50.0, *[0.1] * (len(LABELS) - 1)])
COADD = {"kind": "coadd", "member": "coadd", "plate": None, "mjd": None, "fiber": None}


def known(star: int) -> np.ndarray:
    """The known labels of a star; even ones are giants."""
    labels = np.full(len(LABELS), 0.01 * star)
    labels[:2] = 4500 + 10 * star, 2.5 if star % 2 == 0 else 4.5
    return labels


def name(star: int) -> str:
    """The star's name in APOGEE."""
    return f"2M{star:08d}+0000000"


def path(star: int) -> str:
    """The star's file below the data root."""
    return f"stars/apStar-r6-{name(star)}.fits"


def write_stars(
    file: Path, stars: Iterable[int], off: dict[int, float] | None = None, without: int = -1
) -> None:
    """A coadd and a visit of each star, the labels 0.5 or -0.5 uncertainties off in turn.

    Raw uncertainties are half of those after the noise model.

    Parameters
    ----------
    off
        How far off the labels of some stars are instead.
    without
        A star that has no labels.
    """
    rows = []
    for star in stars:
        apart = (off or {}).get(star, 0.5 if star % 4 < 2 else -0.5)
        labels = known(star) + apart * ERRORS
        columns = {
            column: float(value)
            for names, values in (
                (LABEL_NAMES, labels),
                (["e_" + each for each in LABEL_NAMES], ERRORS),
                (["raw_" + each for each in LABEL_NAMES], labels),
                (["raw_e_" + each for each in LABEL_NAMES], ERRORS / 2),
            )
            for column, value in zip(names, values, strict=True)
        }
        flags = ResultFlag.NO_RESULT if star == without else ResultFlag.UNCERTAIN_FE_H
        found = {} if star == without else columns
        about = {"obj": name(star), "path": path(star), "snr": 20.0 + 10 * (star % 20)}
        for pk, kind in ((2 * star + 1, COADD), (2 * star + 2, {})):
            rows.append((spectrum(pk, **about, **kind), result(pk, flags, tag="", **found)))
    spectra, results = zip(*rows, strict=True)
    with opened(f"sqlite:///{file.with_suffix('.sqlite')}") as engine:
        store(engine, spectra, results)
        write_results(engine, RowSelection(), file)


def write_known(
    file: Path, stars: list[int], names: Iterable[str] = ("teff", "logg", "mg_h", "fe_h")
) -> None:
    """Some known labels by file, as a simulated survey has them."""
    labels = np.array([known(star) for star in stars])
    table = Table({"path": [path(star) for star in stars]})
    for each in names:
        table[each] = labels[:, LABEL_NAMES.index(each)]
    table.write(file)


def write_all_star(file: Path, stars: list[int]) -> None:
    """Teff, log g and [Fe/H] by star as allStar of DR17 has them: behind an empty table.

    The first star's log g is not known.
    """
    labels = np.array([known(star) for star in stars], dtype=np.float32)
    labels[0, 1] = -9999.0
    columns = [fits.Column("APOGEE_ID", "18A", array=[name(star) for star in stars])]
    columns += [
        fits.Column(each.upper(), "E", array=labels[:, LABEL_NAMES.index(each)])
        for each in ("teff", "logg", "fe_h")
    ]
    empty = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.zeros(0))])
    fits.HDUList([fits.PrimaryHDU(), empty, fits.BinTableHDU.from_columns(columns)]).writeto(file)
