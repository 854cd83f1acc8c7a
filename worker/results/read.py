"""Results from the database: a few thousand rows at a time, or all as an astropy table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Engine, Select, select
from sqlalchemy.exc import DataError

from worker.database.session import reading
from worker.database.tables import AstroNN, Source, Spectrum
from worker.errors import UsageError
from worker.flags import DESCRIPTIONS
from worker.results.arrow import ARROW_TYPES, arrow_numbers, arrow_texts, nulls, numpy_numbers
from worker.results.columns import TableColumn, table_columns
from worker.starter.bundled import rows_of_bundled
from worker.version import software_version

if TYPE_CHECKING:
    from astropy.table import Column, Table

#: Rows that are in memory at a time: some 15 MB.
ROWS_AT_ONCE = 10_000
_JOBS_AT_ONCE = 10_000


@dataclass(frozen=True)
class RowSelection:
    """Which results are wanted: those to which all that is given here applies.

    Attributes
    ----------
    jobs
        The rows of these jobs.
    kind
        Coadds or visits.
    tag
        The rows under this tag.
    where
        What :func:`worker.results.where.condition` made of an expression.
    """

    jobs: Sequence[int] | None = None
    kind: str | None = None
    tag: str | None = None
    where: ColumnElement[bool] | None = None


def table_schema(names: Collection[str] | None = None) -> pa.Schema:
    """Names and types of the columns, with units and descriptions as each field's metadata.

    Parameters
    ----------
    names
        The columns that are wanted; without it all.
    """
    return pa.schema(
        pa.field(
            column.name,
            ARROW_TYPES[column.dtype],
            metadata={"description": column.description, "unit": column.unit or ""},
        )
        for column in _chosen(names)
    )


def _chosen(names: Collection[str] | None) -> list[TableColumn]:
    return [column for column in table_columns() if names is None or column.name in names]


def table_meta(rows: int, bundled: Mapping[str, int]) -> dict[str, Any]:
    """What a table says about itself: software, the meaning of its bits, and a warning.

    Parameters
    ----------
    bundled
        How many of the rows come from weights that come with the package, with labels or
        without, as :func:`worker.starter.bundled.rows_of_bundled` counts them.
    """
    meta: dict[str, Any] = {
        "software": f"astronn-stream {software_version()}",
        "result_flags": {
            f"bit {flag.value.bit_length() - 1}": f"{flag.label}: {meaning}"
            for flag, meaning in DESCRIPTIONS.items()
        },
    }
    if bundled:
        parts = sorted(bundled.items())
        meta["notice"] = " ".join(f"{part} of {rows} rows come from the {n}." for n, part in parts)
    return meta


def read_batches(
    database: Engine, wanted: RowSelection, names: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The results in order of file, spectrum and job, some thousand rows at a time.

    Missing numbers are null and missing texts empty.

    Parameters
    ----------
    names
        The columns that are wanted; without it all.

    Raises
    ------
    UsageError
        The condition exceeds what the database can compute.
    TransientError
        The database is away.
    """
    columns, schema = _chosen(names), table_schema(names)
    for query in _queries(columns, wanted):
        with _asking(database) as connection:
            result = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
            for rows in result.partitions():
                values = zip(columns, zip(*rows, strict=True), strict=True)
                yield pa.record_batch([_array(*pair) for pair in values], schema=schema)


def read_table(
    database: Engine,
    *,
    jobs: Sequence[int] | None = None,
    kind: str | None = None,
    tag: str | None = None,
    where: ColumnElement[bool] | None = None,
) -> Table:
    """The results as an astropy table with units, descriptions and masks, in order of file.

    All of it is in memory, some 3 kB a row. The parameters are those of :class:`RowSelection`.
    """
    from astropy.table import Table

    batches = list(read_batches(database, RowSelection(jobs, kind, tag, where)))
    rows = pa.Table.from_batches(batches, schema=table_schema())
    table = Table([_column(column, rows[column.name]) for column in table_columns()])
    table.meta |= table_meta(len(table), rows_of_bundled(table["weights_name"].tolist()))
    return table


def read_columns(
    database: Engine, wanted: RowSelection, names: Collection[str]
) -> dict[str, NDArray[Any]]:
    """Some columns of the results as arrays, in order of file.

    Raises
    ------
    TransientError
        The database is away.
    """
    rows = pa.Table.from_batches(read_batches(database, wanted, names), schema=table_schema(names))
    return {name: _values(rows[name].combine_chunks()) for name in rows.column_names}


@contextmanager
def _asking(database: Engine) -> Iterator[Connection]:
    """Only a condition of the user's can ask for what no number holds (PostgreSQL)."""
    try:
        with reading(database) as connection:
            yield connection
    except DataError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise UsageError(f"--where asks for more than a number holds: {reason}.") from error


def _queries(columns: list[TableColumn], wanted: RowSelection) -> Iterator[Select[Any]]:
    """One query, or one for as many jobs as a statement takes; files stay in order."""
    query = _restrict(select(*(column.source for column in columns)), wanted)
    query = query.order_by(Spectrum.path, Spectrum.pk, AstroNN.task_pk)
    if wanted.jobs is None:
        yield query
        return
    for first in range(0, len(wanted.jobs), _JOBS_AT_ONCE):
        yield query.where(AstroNN.task_pk.in_(wanted.jobs[first : first + _JOBS_AT_ONCE]))


def _restrict(query: Any, wanted: RowSelection) -> Any:
    query = (
        query.select_from(AstroNN)
        .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
        .outerjoin(Source, Source.pk == AstroNN.source_pk)
    )
    if wanted.kind is not None:
        query = query.where(Spectrum.kind == wanted.kind)
    if wanted.tag is not None:
        query = query.where(AstroNN.tag == wanted.tag)
    if wanted.where is not None:
        query = query.where(wanted.where)
    return query


def _array(column: TableColumn, values: Sequence[Any]) -> pa.Array:
    if column.dtype.startswith("f"):
        with np.errstate(over="ignore"):  # a header may claim an S/N of 1e300
            floats = np.array(values, dtype=np.float64).astype(column.dtype)
        return arrow_numbers(floats, column.dtype, np.isnan(floats))
    if column.dtype == "str":
        return arrow_texts(["" if value is None else _text(value) for value in values])
    missing = np.array([value is None for value in values], dtype=bool)
    integers = np.array([value or 0 for value in values], dtype=np.int64)
    return arrow_numbers(integers, column.dtype, missing)


def _text(value: Any) -> str:
    """Moments in ISO 8601 with milliseconds; all else as it is."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    return str(value)


def _column(column: TableColumn, values: pa.ChunkedArray) -> Column:
    """An astropy column; integers that are missing are masked, floats NaN."""
    from astropy.table import Column, MaskedColumn

    about = {"name": column.name, "unit": column.unit, "description": column.description}
    whole = values.combine_chunks()  # one array, whether there are rows or none
    if column.dtype.startswith("i") and whole.null_count:
        # A missing integer must not read as a number.
        return MaskedColumn(_values(whole), mask=nulls(whole), **about)
    return Column(_values(whole), **about)


def _values(values: pa.Array) -> NDArray[Any]:
    if pa.types.is_string(values.type):
        return np.array(values.to_pylist(), dtype=np.str_)
    return numpy_numbers(values)
