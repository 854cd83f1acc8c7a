from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from sqlalchemy import Engine

from tests.unit.result_rows import MOMENT
from worker.errors import UsageError
from worker.results.read import read_table
from worker.results.where import condition

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
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_condition_keeps_the_rows_that_python_would(
    engine: Engine, table: Table, text: str
) -> None:
    kept = read_table(engine, where=condition(text))
    expected = [row["spectrum_pk"] for row in table if CONDITIONS[text](row)]
    assert kept["spectrum_pk"].tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "snr >",
        "kind = 'coadd'",
        "teff",
        "snr and teff",
        "teff > True",
        "kind > 3",
        "'a' + 1 > 2",
        "teff is 3",
        "teff in kind",
        "teff in (1, [2])",
        "teff & 1 == 1",
        "flag_bad + 1 > 2",
        "created > 'yesterday'",
        "mjd < 99999999999999999999",
        "10 ** 10 ** 10 > teff",
        "__import__('os').system('true')",
        "teff.real > 1",
        "(lambda: 1)() > 0",
        "(" * 900 + "snr" + ")" * 900,
    ],
)
def test_what_is_no_condition_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be understood; it looks like"):
        condition(text)


def test_a_mistyped_column_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match="no column tefff; did you mean teff"):
        condition("tefff > 5000")


def test_a_condition_of_endless_length_is_refused() -> None:
    with pytest.raises(UsageError, match="2000 characters"):
        condition("snr > 1 or " * 1000 + "flag_bad")
