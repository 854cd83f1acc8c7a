from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from sqlalchemy import Engine

from tests.inputs.conditions import CONDITIONS
from worker.errors import UsageError
from worker.results.read import RowSelection
from worker.tables.columns_of_file import read_columns
from worker.tables.export import write_results
from worker.tables.where import rows_where

#: Of the formats, those that keep all texts; the others write other letters as escapes.
UTF_8 = (".parquet", ".csv", ".ecsv")


@pytest.mark.parametrize("ending", [*UTF_8, ".fits", ".vot"])
def test_a_file_and_the_database_know_the_same_rows(
    engine: Engine, table: Table, tmp_path: Path, ending: str
) -> None:
    write_results(engine, RowSelection(), tmp_path / f"labels{ending}")
    columns = read_columns(tmp_path / f"labels{ending}")
    for text, python in CONDITIONS.items():
        if not text.isascii() and ending not in UTF_8:
            continue
        kept = np.asarray(columns["spectrum_pk"])[rows_where(columns, text, "labels")]
        expected = [row["spectrum_pk"] for row in table if python(row)]
        assert kept.tolist() == expected, text


def test_a_column_that_the_file_lacks_is_named() -> None:
    columns = {"snr": np.array([1.0, 2.0])}
    assert rows_where(columns, "snr > 1", "mine.csv").tolist() == [False, True]
    with pytest.raises(UsageError, match=r"the results table mine\.csv has no mjd, teff\.$"):
        rows_where(columns, "snr > 1 and teff > mjd", "mine.csv")


def test_a_file_without_rows_has_none_that_fits() -> None:
    assert rows_where({"snr": np.array([])}, "snr > 1", "mine.csv").shape == (0,)
