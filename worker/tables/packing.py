"""Rows as records of fixed width, as FITS tables and VOTables store them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from worker.results.arrow import ARROW_TYPES, numpy_numbers
from worker.results.read import ROWS_AT_ONCE

#: What no text in FITS may hold, as Python escapes it.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
#: An integer that stands for a missing one.
MISSING = {"i4": -(2**31), "i8": -(2**63)}

_TYPES = {arrow: kind for kind, arrow in ARROW_TYPES.items()}


def batches(rows: ParquetFile) -> Iterator[pa.RecordBatch]:
    """The rows of a stored table, as many at a time as fit easily into memory."""
    yield from rows.iter_batches(ROWS_AT_ONCE)


def kind_of(field: pa.Field) -> str:
    """The type of a column as ``TableColumn.dtype`` has it."""
    return _TYPES[field.type]


def widths(rows: ParquetFile) -> dict[str, int]:
    """The longest text of each column of texts, in bytes; 1 where all are empty."""
    texts = [field.name for field in rows.schema_arrow if kind_of(field) == "str"]
    longest = dict.fromkeys(texts, 1)
    for batch in rows.iter_batches(ROWS_AT_ONCE, columns=texts):
        for name in texts:
            longest[name] = max(longest[name], _ascii(batch[name]).itemsize)
    return longest


def record_type(rows: ParquetFile) -> np.dtype[np.void]:
    """One row: numbers big-endian, truths as ``T`` or ``F``, texts filled with NUL to width."""
    width = widths(rows)
    return np.dtype(
        [
            (field.name, _stored(kind_of(field), width.get(field.name, 0)))
            for field in rows.schema_arrow
        ]
    )


def _stored(kind: str, width: int) -> str:
    return {"str": f"S{width}", "bool": "S1"}.get(kind, f">{kind}")


def pack(batch: pa.RecordBatch, record: np.dtype[np.void]) -> NDArray[np.void]:
    """Rows as records of this type.

    Texts are printable ASCII, other characters written as Python escapes; a missing integer is
    ``MISSING``.
    """
    packed = np.zeros(batch.num_rows, dtype=record)
    for field, values in zip(batch.schema, batch.columns, strict=True):
        kind = kind_of(field)
        if kind == "str":
            packed[field.name] = _ascii(values)
        elif kind == "bool":
            packed[field.name] = np.where(numpy_numbers(values), b"T", b"F")
        else:
            packed[field.name] = numpy_numbers(values, MISSING.get(kind))
    return packed


def _ascii(values: pa.Array) -> NDArray[np.bytes_]:
    """Texts as ASCII; what many rows share, such as a file's name, is encoded once."""
    unique = values.dictionary_encode()
    texts = [_escaped(text) for text in unique.dictionary.to_pylist()]
    encoded: NDArray[np.bytes_] = np.array(texts or [b""], dtype=np.bytes_)
    rows: NDArray[np.bytes_] = encoded[numpy_numbers(unique.indices)]
    return rows


def _escaped(text: str) -> bytes:
    plain = text if text.isprintable() else text.translate(_CONTROLS)
    return plain.encode("ascii", "backslashreplace")
