"""Simulated allStar and allVisit tables, in the layouts of DR17 and SDSS-V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

Rows = Sequence[Mapping[str, Any]]

#: Formats of the columns that are not text of this width.
_FORMATS = {
    "ra": "D",
    "dec": "D",
    "snr": "E",
    "starflag": "K",
    "location_id": "J",
    "nvisits": "J",
    "ngoodvisits": "J",
    "ngoodrvs": "J",
    "healpix": "J",
    "mjd": "J",
    "fiberid": "I",
    "sdss_id": "K",
}
_WIDTH = 64

DR17_STAR = {
    "FILE": "apStar-dr17-2M00000002+7417074.fits",
    "APOGEE_ID": "2M00000002+7417074",
    "APSTAR_ID": "apogee.apo25m.stars.120+12.2M00000002+7417074",
    "TELESCOPE": "apo25m",
    "LOCATION_ID": 5046,
    "FIELD": "120+12",
    "RA": 0.000103,
    "DEC": 74.285408,
    "NVISITS": 3,
    "SNR": 229.78,
    "STARFLAG": 512,
}
DR17_VISIT = {
    "VISIT_ID": "apogee.apo25m.s.dr17.8100.57680.24",
    "FILE": "apVisit-dr17-8100-57680-024.fits",
    "APOGEE_ID": DR17_STAR["APOGEE_ID"],
    "TELESCOPE": "apo25m",
    "FIELD": "120+12",
    "PLATE": "8100    ",
    "MJD": 57680,
    "FIBERID": 24,
    "RA": 0.000103,
    "DEC": 74.285408,
    "SNR": 120.5,
    "STARFLAG": 512,
}
SDSS5_STAR = {
    "apogee_id": "2M05595894+2204122",
    "file": "apStar-1.3-apo25m-2M05595894+2204122-59560.fits",
    "uri": "apogee/spectro/redux/1.3/stars/apo25m/60/60800/"
    "apStar-1.3-apo25m-2M05595894+2204122-59560.fits",
    "starver": "59560",
    "telescope": "apo25m",
    "apred_vers": "1.3",
    "healpix": 60800,
    "ra": 89.9956,
    "dec": 22.0701,
    "snr": 88.5,
    "nvisits": 2,
    "ngoodvisits": 2,
    "ngoodrvs": 2,
    "starflag": 0,
    "sdss_id": 54321,
}
SDSS5_VISIT = {
    "apogee_id": SDSS5_STAR["apogee_id"],
    "file": "apVisit-1.3-apo25m-3238-59560-124.fits",
    "uri": "apogee/spectro/redux/1.3/visit/apo25m/field/3238/59560/"
    "apVisit-1.3-apo25m-3238-59560-124.fits",
    "fiberid": 124,
    "plate": "3238",
    "mjd": 59560,
    "telescope": "apo25m",
    "field": "RM_XMM-LSS",
    "ra": 89.9956,
    "dec": 22.0701,
    "snr": 60.25,
    "starflag": 4,
    "starver": "59560",
}


def write_table(path: Path, rows: Rows, **formats: str) -> Path:
    """Write a table like the survey's.

    A column has the format of its name, a text of 64 letters unless known; None in a row leaves
    its text empty, as masked ones are.

    Parameters
    ----------
    formats
        Other formats for columns, by their names.
    """
    columns = [
        fits.Column("J_PSFMAG", "E", array=np.zeros(len(rows))),
        fits.Column("PARAM", "5E", array=np.zeros((len(rows), 5))),
        fits.Column("TARGFLAGS", "132A", array=[f"flags {n}" for n in range(len(rows))]),
    ]
    for name in rows[0]:
        form = formats.get(name, _FORMATS.get(name.lower(), f"{_WIDTH}A"))
        values = [row[name] if row[name] is not None else "" for row in rows]
        columns.insert(len(columns) // 2, fits.Column(name, form, array=np.array(values)))
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = fits.PrimaryHDU(np.zeros(3, dtype=np.int16))  # data ahead of the table's
    hdus = fits.HDUList([primary, fits.BinTableHDU.from_columns(columns)])
    hdus.writeto(path, overwrite=True)
    return path
