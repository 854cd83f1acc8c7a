"""Conditions on the rows of ``result_rows``, for the tests on either database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.inputs.result_rows import MOMENT

#: Conditions, and what they say of a row of the table in plain Python.
CONDITIONS: dict[str, Callable[[Any], bool]] = {
    "snr > 103": lambda row: row["snr"] > 103,
    "not flag_bad and snr >= 102.25": lambda row: not row["flag_bad"] and row["snr"] >= 102.25,
    "flag_no_result or kind == 'coadd'": lambda row: (
        row["flag_no_result"] or row["kind"] == "coadd"
    ),
    "1000 <= teff < 3000": lambda row: 1000 <= row["teff"] < 3000,
    "result_flags & 2 == 2": lambda row: row["result_flags"] & 2 == 2,
    "(result_flags & 1) != 0": lambda row: row["result_flags"] & 1 != 0,
    "healpix is None": lambda row: row["healpix"] is np.ma.masked,
    "healpix is not None": lambda row: row["healpix"] is not np.ma.masked,
    "tag in ('second', 'third')": lambda row: row["tag"] in ("second", "third"),
    "spectrum_pk not in [1, 2]": lambda row: row["spectrum_pk"] not in [1, 2],
    "fe_h - teff == 19 and fe_h / 2 > 1000": lambda row: (
        row["fe_h"] - row["teff"] == 19 and row["fe_h"] / 2 > 1000
    ),
    "abs(-teff) * 2 + 1 > 4001": lambda row: abs(-row["teff"]) * 2 + 1 > 4001,
    "fiber != 3": lambda row: row["fiber"] is not np.ma.masked and row["fiber"] != 3,
    f"created > '{MOMENT.date()}'": lambda row: row["created"] > str(MOMENT.date()),
    f"created > '{MOMENT.isoformat()}'": lambda row: row["created"] > "2024-06-07T12:30:15.250Z",
    "obj == 'Ångström'": lambda row: row["obj"] == "Ångström",
    "teff / (fiber - 3) > 1000": lambda row: (
        row["fiber"] not in (3, np.ma.masked) and row["teff"] / (row["fiber"] - 3) > 1000
    ),
    "mjd < 3000000000 and snr < 3000000000": lambda row: row["mjd"] is not np.ma.masked,
    "mjd in (56587, 3000000000)": lambda row: row["mjd"] is not np.ma.masked,
    "mjd * 100000 > 1": lambda row: row["mjd"] is not np.ma.masked,
    f"spectrum_flags & {2**40 + 2} == {2**40 + 2}": lambda row: row["spectrum_pk"] in (2, 3),
    "3 & result_flags == 2": lambda row: row["spectrum_pk"] == 2,
    "mjd / 2 == 28293.5": lambda row: row["mjd"] is not np.ma.masked,
    "flag_bad == flag_warn": lambda row: row["flag_bad"] == row["flag_warn"],
    "-(-snr) > 102.5": lambda row: row["snr"] > 102.5,
    "kind in (obj, 'coadd')": lambda row: row["kind"] == "coadd",
    "1 / 2 < 0.6 and '' != obj": lambda row: row["obj"] != "",
}
