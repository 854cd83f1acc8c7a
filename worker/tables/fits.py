"""Results as a FITS table, written block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from pyarrow.parquet import ParquetFile

from worker.tables.packing import MISSING, batches, kind_of, pack, record_type

_BLOCK = 2880
_FORMATS = {"i4": "J", "i8": "K", "f4": "E", "f8": "D", "bool": "L"}


def write_fits(
    rows: ParquetFile,
    meta: Mapping[str, Any],
    path: Path,
    *,
    name: str = "ASTRONN",
    before: Sequence[Any] = (),
) -> None:
    """Write a table as one HDU.

    FITS has ASCII alone: a reason may quote a file name that is more, which is escaped.

    Parameters
    ----------
    rows, meta
        The stored table, and what it says about itself.
    name
        The name of the table's HDU.
    before
        HDUs between the primary one and the table.
    """
    record = record_type(rows)
    header = _header(rows.schema_arrow, record, meta, name)
    header["NAXIS2"] = rows.metadata.num_rows
    fits.HDUList([fits.PrimaryHDU(), *before]).writeto(path)
    with path.open("ab") as file:
        file.write(header.tostring().encode("ascii"))
        for batch in batches(rows):
            file.write(pack(batch, record).tobytes())
        file.write(bytes(-file.tell() % _BLOCK))


def empty_table(rows: ParquetFile, name: str) -> Any:
    """An HDU with the columns of a stored table, and no rows."""
    return _hdu(rows.schema_arrow, record_type(rows), name)


def _hdu(schema: pa.Schema, record: np.dtype[np.void], name: str) -> Any:
    columns = []
    for field in schema:
        kind = kind_of(field)
        unit = field.metadata[b"unit"].decode()
        columns.append(
            fits.Column(
                name=field.name,
                format=_FORMATS.get(kind, f"{record[field.name].itemsize}A"),
                # FITS knows no "dex": readers warn of each such column, so the comment says it.
                unit=unit if unit not in ("", "dex") else None,
                null=MISSING.get(kind),
            )
        )
    hdu = fits.BinTableHDU.from_columns(columns, nrows=0, name=name)
    for number, field in enumerate(schema, start=1):
        dex = " [dex]" if field.metadata[b"unit"] == b"dex" else ""
        hdu.header[f"TCOMM{number}"] = field.metadata[b"description"].decode() + dex
    return hdu


def _header(
    schema: pa.Schema, record: np.dtype[np.void], meta: Mapping[str, Any], name: str
) -> Any:
    header = _hdu(schema, record, name).header
    header["SOFTWARE"] = meta["software"]
    for bit, meaning in meta["result_flags"].items():
        header["COMMENT"] = f"result_flags {bit}: {meaning}"
    if "notice" in meta:
        header["COMMENT"] = meta["notice"]
    return header
