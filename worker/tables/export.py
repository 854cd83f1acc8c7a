"""Tables of results as files, with units and descriptions, whatever their size.

Rows come from the database once, into a Parquet file beside the output; the other formats are
made from that, a few thousand rows at a time. So every format has the same rows, and the widths
of texts, which FITS has to know first, are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile, ParquetWriter
from sqlalchemy import Engine

from worker.atomic_file import check_place, replacing
from worker.errors import UsageError
from worker.results.arrow import arrow_numbers, arrow_texts
from worker.results.read import RowSelection, read_batches, table_meta, table_schema
from worker.starter.bundled import rows_of_bundled
from worker.tables.packing import kind_of
from worker.version import __version__

if TYPE_CHECKING:
    from astropy.table import Column, Table

Writer = Callable[[ParquetFile, Mapping[str, Any], Path], None]


#: Which function of which file here writes a format; imported when a table of it is written.
_WRITERS = {
    ".fits": ("fits", "write_fits"),
    ".parquet": ("parquet", "write_parquet"),
    ".csv": ("text", "write_csv"),
    ".ecsv": ("text", "write_ecsv"),
    ".vot": ("votable", "write_votable"),
}
#: The files of the survey's layout, by kind of spectrum.
SURVEY_FILES = {
    "coadd": f"astraAllStarAstroNN-{__version__}.fits",
    "visit": f"astraAllVisitAstroNN-{__version__}.fits",
}


def check_output(path: Path) -> None:
    """Make sure, before the work is done, that a table can be written here.

    Raises
    ------
    UsageError
        The ending is none of the formats, or the folder is not there or cannot be written.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(f"{path.name} must end in one of {', '.join(_WRITERS)}.")
    check_place(path)


@dataclass(frozen=True)
class Written:
    """A file, how many rows it has, and its notice where rows come from weights of the package."""

    path: Path
    rows: int
    notice: str | None


def write_results(database: Engine, wanted: RowSelection, path: Path) -> Written:
    """Write results from the database in the format of the file's ending, in bounded memory.

    The file is replaced in one step.

    Raises
    ------
    UsageError
        See :func:`check_output`.
    FatalError
        The disk is full, or does not work.
    TransientError
        The database is away.
    """
    check_output(path)
    return _write(path, read_batches(database, wanted), _writer(path))


def write_survey(database: Engine, wanted: RowSelection, folder: Path) -> list[Written]:
    """Write coadds and visits apart, as the survey's own files of these results are laid out.

    Behind the primary HDU come BOSS, without rows, and APOGEE with the results. The folder is made
    where there is none.

    Raises
    ------
    UsageError
        The folder cannot be made or written.
    FatalError
        The disk is full, or does not work.
    TransientError
        The database is away.
    """
    from worker.tables.fits import write_fits

    def write(rows: ParquetFile, meta: Mapping[str, Any], path: Path) -> None:
        write_fits(rows, meta, path, name="APOGEE", before=["BOSS"])

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    for name in SURVEY_FILES.values():
        check_output(folder / name)
    return [
        _write(folder / name, read_batches(database, replace(wanted, kind=kind)), write)
        for kind, name in SURVEY_FILES.items()
        if wanted.kind in (None, kind)
    ]


def write_table(table: Table, path: Path) -> None:
    """Write a table of :func:`worker.results.read.read_table`, or some of its rows.

    Raises
    ------
    UsageError
        See :func:`check_output`.
    FatalError
        The disk is full, or does not work.
    """
    check_output(path)
    _write(path, [_arrow(table)], _writer(path))


def _writer(path: Path) -> Writer:
    module, function = _WRITERS[path.suffix]
    writer: Writer = getattr(import_module(f"worker.tables.{module}"), function)
    return writer


def _write(path: Path, batches: Iterable[pa.RecordBatch | pa.Table], writer: Writer) -> Written:
    """Store rows beside ``path``, make the file from them, and let it take its place."""
    bundled: Counter[str] = Counter()
    with replacing(path) as temporary:
        stored = temporary.with_name("rows")
        with ParquetWriter(stored, table_schema()) as file:
            for batch in batches:
                file.write(batch)
                bundled += rows_of_bundled(batch["weights_name"].to_pylist())
        # What it buffers ahead it keeps to the end.
        with ParquetFile(stored, pre_buffer=False) as rows:
            number: int = rows.metadata.num_rows
            meta = table_meta(number, bundled)
            writer(rows, meta, temporary)
    return Written(path, number, meta.get("notice"))


def _missing(column: Column) -> NDArray[np.bool_] | None:
    if hasattr(column, "mask"):
        return np.asarray(column.mask)
    return np.isnan(column) if column.dtype.kind == "f" else None


def _arrow(table: Table) -> pa.Table:
    """A table of astropy's as arrow has it, without units and descriptions."""
    columns = []
    for field in table_schema():
        column = table[field.name]
        if (kind := kind_of(field)) == "str":
            columns.append(arrow_texts(column.tolist()))
        else:
            columns.append(arrow_numbers(np.asarray(column), kind, _missing(column)))
    return pa.table(columns, names=table.colnames)
