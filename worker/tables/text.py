"""Results as CSV or ECSV, written block by block, in UTF-8 whatever the locale."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.table import Column, Table
from pyarrow import csv
from pyarrow.parquet import ParquetFile

from worker.tables.packing import batches, kind_of


def write_csv(rows: ParquetFile, _meta: Mapping[str, Any], path: Path) -> None:
    """Write the names of the columns and the rows; what is missing is empty."""
    with path.open("wb") as file:
        file.write(",".join(rows.schema_arrow.names).encode() + b"\n")
        _write_rows(rows, file)


def write_ecsv(rows: ParquetFile, meta: Mapping[str, Any], path: Path) -> None:
    """Write the rows as in CSV, below a header that knows types, units and descriptions."""
    head = io.StringIO()
    _without_rows(rows.schema_arrow, meta).write(head, format="ascii.ecsv", delimiter=",")
    with path.open("wb") as file:
        file.write(head.getvalue().encode())
        _write_rows(rows, file)


def _without_rows(schema: pa.Schema, meta: Mapping[str, Any]) -> Table:
    table = Table(meta=dict(meta))
    for field in schema:
        kind = kind_of(field)
        about = {key.decode(): value.decode() or None for key, value in field.metadata.items()}
        table[field.name] = Column(np.array([], dtype="U1" if kind == "str" else kind), **about)
    return table


def _write_rows(rows: ParquetFile, file: IO[bytes]) -> None:
    options = csv.WriteOptions(include_header=False)
    for batch in batches(rows):
        csv.write_csv(_with_python_truths(batch), file, options)


def _with_python_truths(batch: pa.RecordBatch) -> pa.Table:
    """``True`` and ``False``, as astropy and pandas read them, for arrow's ``true``."""
    columns = [
        pc.if_else(values, "True", "False") if kind_of(field) == "bool" else values
        for field, values in zip(batch.schema, batch.columns, strict=True)
    ]
    return pa.table(columns, names=batch.schema.names)
