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
    before: Sequence[str] = (),
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
        Names of HDUs between the primary one and the table, with its columns and no rows.
    """
    record = record_type(rows)
    fits.PrimaryHDU().writeto(path)
    with path.open("ab") as file:
        for empty in before:
            file.write(_header(rows.schema_arrow, record, empty, 0).tostring().encode("ascii"))
        header = _header(rows.schema_arrow, record, name, rows.metadata.num_rows)
        _tell(header, meta)
        file.write(header.tostring().encode("ascii"))
        for batch in batches(rows):
            file.write(pack(batch, record).tobytes())
        file.write(bytes(-file.tell() % _BLOCK))


def _header(schema: pa.Schema, record: np.dtype[np.void], name: str, n_rows: int) -> fits.Header:
    """What astropy writes for such columns; its HDU takes half a second to say it."""
    shape = [8, 2, record.itemsize, n_rows, 0, 1, len(schema)]
    keywords = ("BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS")
    cards: list[tuple[str, Any]] = [("XTENSION", "BINTABLE"), *zip(keywords, shape, strict=True)]
    for number, field in enumerate(schema, start=1):
        cards += [(f"{key}{number}", said) for key, said in _column(field, record) if said != ""]
    return fits.Header([*cards, ("EXTNAME", name)])


def _column(field: pa.Field, record: np.dtype[np.void]) -> list[tuple[str, Any]]:
    kind, unit = kind_of(field), field.metadata[b"unit"].decode()
    # FITS knows no "dex": readers warn of each such column, so the comment says it.
    dex = unit == "dex"
    return [
        ("TTYPE", field.name),
        ("TFORM", _FORMATS.get(kind, f"{record[field.name].itemsize}A")),
        ("TUNIT", "" if dex else unit),
        ("TNULL", MISSING.get(kind, "")),
        ("TCOMM", field.metadata[b"description"].decode() + " [dex]" * dex),
    ]


def _tell(header: fits.Header, meta: Mapping[str, Any]) -> None:
    header["SOFTWARE"] = meta["software"]
    for bit, meaning in meta["result_flags"].items():
        header["COMMENT"] = f"result_flags {bit}: {meaning}"
    if "notice" in meta:
        header["COMMENT"] = meta["notice"]
