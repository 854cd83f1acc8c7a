"""Results as a VOTable, written block by block in its binary form."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from worker.results.arrow import nulls
from worker.tables.packing import MISSING, batches, kind_of, pack, record_type

_TYPES = {"i4": "int", "i8": "long", "f4": "float", "f8": "double", "bool": "boolean"}
#: Bytes in one go and in one line, multiples of three so that base64 needs no filling.
_PIECE = 57 * 16_384
_LINE = 57


def write_votable(rows: ParquetFile, meta: Mapping[str, Any], path: Path) -> None:
    """Write a table as VOTable 1.4 with BINARY2 (IVOA Recommendation, 2019).

    Each row is preceded by one bit a column that says what is missing. Texts are ASCII of a
    fixed width, as in the FITS table.
    """
    record = record_type(rows)
    with path.open("w", encoding="ascii", errors="xmlcharrefreplace") as file:
        file.write(_head(rows, record, meta))
        waiting = b""
        for batch in batches(rows):
            waiting += _binary(batch, record)
            usable = len(waiting) - len(waiting) % _LINE
            file.writelines(_lines(waiting[:usable]))
            waiting = waiting[usable:]
        file.writelines(_lines(waiting))
        file.write("</STREAM></BINARY2></DATA></TABLE></RESOURCE></VOTABLE>\n")


def _head(rows: ParquetFile, record: np.dtype[np.void], meta: Mapping[str, Any]) -> str:
    about = {name: meta[name] for name in ("software", "notice") if name in meta}
    for bit, meaning in meta["result_flags"].items():
        about[f"result_flags_{bit.replace(' ', '_')}"] = meaning
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        '<RESOURCE type="results">',
        *(f"<INFO name={quoteattr(key)} value={quoteattr(text)}/>" for key, text in about.items()),
        f'<TABLE name="astronn" nrows="{rows.metadata.num_rows}">',
        *(_field(field, record[field.name].itemsize) for field in rows.schema_arrow),
        '<DATA><BINARY2><STREAM encoding="base64">',
    ]
    return "\n".join(lines) + "\n"


def _field(field: pa.Field, width: int) -> str:
    kind = kind_of(field)
    attributes = {"ID": field.name, "name": field.name, "datatype": _TYPES.get(kind, "char")}
    if kind == "str":
        attributes["arraysize"] = str(width)
    if unit := field.metadata[b"unit"].decode():
        attributes["unit"] = unit
    text = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    about = f"<DESCRIPTION>{escape(field.metadata[b'description'].decode())}</DESCRIPTION>"
    null = f'<VALUES null="{MISSING[kind]}"/>' if kind in MISSING else ""
    return f"<FIELD{text}>{about}{null}</FIELD>"


def _binary(batch: pa.RecordBatch, record: np.dtype[np.void]) -> bytes:
    missing = np.stack([nulls(column) for column in batch.columns], axis=1)
    flags = np.packbits(missing, axis=1)
    whole = np.dtype([("missing", "u1", flags.shape[1]), ("row", record)])
    packed = np.empty(batch.num_rows, dtype=whole)
    packed["missing"], packed["row"] = flags, pack(batch, record)
    return packed.tobytes()


def _lines(content: bytes) -> Iterator[str]:
    for first in range(0, len(content), _PIECE):
        yield base64.encodebytes(content[first : first + _PIECE]).decode("ascii")
