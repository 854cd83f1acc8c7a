"""Columns of a table in any of the formats, read as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.array_types import Floats
from worker.errors import UsageError

#: APOGEE's tables write -9999 or -9999.99 for what is not known; no label comes near it.
_MISSING_BELOW = -9000.0

#: What astropy calls the formats of tables, by their endings.
_FORMATS = {".fits": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".vot": "votable"}


def read_columns(path: Path, what: str = "label table") -> dict[str, Any]:
    """The columns of a table, masked where its format can say so.

    Raises
    ------
    UsageError
        The table cannot be read; the text calls it ``what``.
    """
    ending = _ending(path)
    if ending not in (*_FORMATS, ".parquet"):
        raise UsageError(f"The {what} {path.name} is no .fits, .ecsv, .csv, .vot or .parquet file.")
    if not path.is_file():
        raise UsageError(f"The {what} {path} does not exist.")
    try:
        return _parquet_columns(path) if ending == ".parquet" else _astropy_columns(path)
    except Exception as error:  # the readers raise nearly anything on damaged tables
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"The {what} {path.name} cannot be read: {reason}.") from error


def _ending(path: Path) -> str:
    """The ending without ``.gz``, with which the survey offers its larger tables."""
    plain = path.name.removesuffix(".gz")
    return Path(plain).suffix if plain.endswith(".fits") else path.suffix


def _astropy_columns(path: Path) -> dict[str, Any]:
    from astropy.table import Table

    ending = _ending(path)
    options: dict[str, Any] = {}
    if ending == ".fits":
        # Of a table of 4 GB those columns alone are read that are used.
        options = {"hdu": _first_rows(path), "memmap": True, "mask_invalid": False}
    table = Table.read(path, format=_FORMATS[ending], **options)
    return {name: table[name] for name in table.colnames}


def _first_rows(path: Path) -> int:
    """The HDU of the first table that has rows; the survey's tables begin with an empty one."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        tables = [number for number, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU)]
        full = [number for number in tables if hdus[number].header["NAXIS2"] > 0]
    return (full or tables or [1])[0]


def read_entry(path: Path, column: str) -> Any:
    """The first entry of a column in any table of a FITS file; None where there is no such column.

    Further tables of the survey's files say what the arrays in the first one are.
    """
    from astropy.io import fits

    if _ending(path) != ".fits":
        return None
    with fits.open(path) as hdus:
        for hdu in hdus:
            if isinstance(hdu, fits.BinTableHDU) and column in hdu.columns.names and len(hdu.data):
                return np.array(hdu.data[column][0])
    return None


def _parquet_columns(path: Path) -> dict[str, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: _parquet_column(table[name]) for name in table.column_names}


def _parquet_column(values: Any) -> Any:
    """Numbers as an array, with NaN for null; all else (texts, moments, lists) as it is."""
    from pyarrow import float64, types

    kind = values.type
    if types.is_boolean(kind) or types.is_decimal(kind) or types.is_null(kind):
        values, kind = values.cast(float64()), float64()
    if types.is_integer(kind) or types.is_floating(kind):
        return values.to_numpy()
    return values.to_pylist()


def numbers(columns: Mapping[str, Any], names: Sequence[str]) -> Floats | None:
    """A column of numbers with NaN for what is missing; None where there is no such column."""
    column = next((columns[name] for name in names if name in columns), None)
    if column is None:
        return None
    values = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    values[~np.isfinite(values) | (values <= _MISSING_BELOW)] = np.nan
    return np.asarray(values)
