"""Tables of results: FITS, Parquet, CSV and ECSV, with units and descriptions."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import InstrumentedAttribute

from worker import __version__
from worker.database.tables import LABEL_PREFIXES, AstroNN, Spectrum
from worker.errors import UsageError
from worker.labels import LABELS
from worker.network.starter import STARTER_NAME
from worker.results.flags import DESCRIPTIONS

_ROWS_AT_ONCE = 10_000
_JOBS_AT_ONCE = 10_000


@dataclass(frozen=True)
class TableColumn:
    """One column of an exported table: where it comes from, its type, unit and meaning."""

    name: str
    source: Any
    dtype: str
    description: str
    unit: str | None = None


def _column(source: Any, dtype: str, description: str, unit: str | None = None) -> TableColumn:
    name = source.key if isinstance(source, InstrumentedAttribute) else source.__name__
    return TableColumn(name, source, dtype, description, unit)


def _label_columns() -> Iterator[TableColumn]:
    meanings = dict(
        zip(
            LABEL_PREFIXES,
            (
                "{}",
                "{}, uncertainty after the noise model",
                "{}, as the network gives it",
                "{}, uncertainty as the network gives it",
            ),
            strict=True,
        )
    )
    pairs = (("", "e_"), ("raw_", "raw_e_"))
    for prefixes in pairs:
        for label in LABELS:
            for prefix in prefixes:
                name = prefix + label.name
                text = meanings[prefix].format(label.description)
                yield TableColumn(name, getattr(AstroNN, name), "f4", text, label.unit)


def table_columns() -> list[TableColumn]:
    """The columns of an exported table, in order."""
    return [
        _column(Spectrum.obj, "str", "Name of the star"),
        _column(Spectrum.kind, "str", "Kind of spectrum: coadd or visit"),
        _column(Spectrum.telescope, "str", "Telescope"),
        _column(Spectrum.release, "str", "Data release, where the reduction tells it"),
        _column(Spectrum.apred, "str", "Version of the reduction"),
        _column(Spectrum.field, "str", "Field"),
        _column(Spectrum.healpix, "i4", "HEALPix number, nside 128"),
        _column(Spectrum.plate, "str", "Plate or configuration of a visit"),
        _column(Spectrum.mjd, "i4", "Modified Julian date of a visit", "d"),
        _column(Spectrum.fiber, "i4", "Fiber of a visit"),
        _column(Spectrum.n_visits, "i4", "Number of visits in a coadd"),
        _column(Spectrum.snr, "f4", "Signal-to-noise ratio as the reduction gives it"),
        _column(Spectrum.spectrum_flags, "i8", "STARFLAG of the coadd or FLAG of the visit"),
        _column(Spectrum.path, "str", "File, relative to the data root"),
        _column(Spectrum.member, "str", "coadd, or the apVisit file of the visit"),
        _column(AstroNN.spectrum_pk, "i8", "Key of the spectrum"),
        _column(AstroNN.source_pk, "i8", "Key of the star"),
        _column(AstroNN.task_pk, "i8", "Key of the job"),
        _column(AstroNN.tag, "str", "Tag of the run"),
        *_label_columns(),
        _column(AstroNN.result_flags, "i8", "Bit field of quality flags"),
        _column(AstroNN.flag_warn, "bool", "Any flag is set"),
        _column(AstroNN.flag_bad, "bool", "Gravity, temperature and [Fe/H] are all uncertain"),
        _column(AstroNN.flag_no_result, "bool", "There are no labels"),
        _column(AstroNN.no_result_reason, "str", "Why there are no labels"),
        _column(AstroNN.software_version, "str", "Version of astronn-stream"),
        _column(AstroNN.weights_name, "str", "Name of the weights"),
        _column(AstroNN.weights_sha256, "str", "SHA-256 of the weights"),
        _column(AstroNN.corrections_sha256, "str", "SHA-256 of the noise model; none: identity"),
        _column(AstroNN.mc_samples, "i4", "Passes of MC dropout"),
        _column(AstroNN.seed, "i8", "Seed of MC dropout"),
        _column(AstroNN.created, "str", "When the row was first written, UTC"),
        _column(AstroNN.modified, "str", "When the row was last written, UTC"),
        _column(AstroNN.t_elapsed, "f4", "Share of loading and inference", "s"),
        _column(AstroNN.t_overhead, "f4", "Part of t_elapsed that is not inference", "s"),
    ]


def read_table(
    engine: Engine,
    *,
    jobs: Sequence[int] | None = None,
    kind: str | None = None,
    tag: str | None = None,
) -> Table:
    """The results as an astropy table with units, descriptions and masks, in order of spectrum.

    Parameters
    ----------
    jobs
        Only the rows of these jobs.
    kind
        Only coadds or visits.
    tag
        Only the rows under this tag.
    """
    columns = table_columns()
    query = (
        select(*(column.source for column in columns))
        .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
        .order_by(Spectrum.path, Spectrum.pk, AstroNN.task_pk)
    )
    if kind is not None:
        query = query.where(Spectrum.kind == kind)
    if tag is not None:
        query = query.where(AstroNN.tag == tag)
    rows = [row for part in _parts(query, jobs) for row in _rows(engine, part)]
    table = Table(
        [
            _filled(column, values)
            for column, values in zip(columns, _transpose(rows, len(columns)), strict=True)
        ],
        names=[column.name for column in columns],
    )
    table.meta["software"] = f"astronn-stream {__version__}"
    table.meta["result_flags"] = {
        f"bit {flag.value.bit_length() - 1}": f"{flag.name.lower()}: {meaning}"
        for flag, meaning in DESCRIPTIONS.items()
        if flag.name
    }
    if (made_up := _starter_rows(table)) > 0:
        table.meta["notice"] = f"{made_up} of {len(table)} rows come from the {STARTER_NAME}."
    return table


def _starter_rows(table: Table) -> int:
    """How many rows of a table, with labels or without, come from the starter weights."""
    return int((table["weights_name"] == STARTER_NAME).sum())


def _parts(query: Select[Any], jobs: Sequence[int] | None) -> Iterator[Select[Any]]:
    """The query, for as many jobs at a time as a statement takes; files stay in order."""
    if jobs is None:
        yield query
        return
    for first in range(0, len(jobs), _JOBS_AT_ONCE):
        yield query.where(AstroNN.task_pk.in_(jobs[first : first + _JOBS_AT_ONCE]))


def _rows(engine: Engine, query: Select[Any]) -> Iterator[Sequence[Any]]:
    with engine.connect() as connection:
        result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query)
        yield from result


def _transpose(rows: list[Sequence[Any]], n_columns: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * n_columns


def _filled(column: TableColumn, values: Sequence[Any]) -> Column:
    """An astropy column; missing floats are NaN, other missing values are masked."""
    arguments = {"name": column.name, "unit": column.unit, "description": column.description}
    if column.dtype.startswith("f"):
        return Column(np.array(values, dtype=np.float64).astype(column.dtype), **arguments)
    texts = column.dtype == "str"
    mask = [value is None for value in values]
    plain = [("" if texts else 0) if value is None else value for value in values]
    data = [_text(value) for value in plain] if texts else np.array(plain, dtype=column.dtype)
    if texts and not data:
        data = np.array([], dtype="U1")
    # An integer that is missing must not read as a number; an empty text says it all.
    if any(mask) and not texts:
        return MaskedColumn(data, mask=mask, **arguments)
    return Column(data, **arguments)


def _text(value: Any) -> str:
    """Moments in ISO 8601 with milliseconds; all else as it is."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    return str(value)


def _write_fits(table: Table, path: Path) -> None:
    """FITS has ASCII alone: a reason may quote a file name that is more."""
    plain = table.copy(copy_data=False)
    for name in plain.colnames:
        plain[name].unit = None
        if plain[name].dtype.kind == "U":
            plain[name] = [text.encode("ascii", "backslashreplace") for text in plain[name]]
    flags, notice = plain.meta.pop("result_flags"), plain.meta.pop("notice", None)
    hdu = fits.table_to_hdu(plain)
    hdu.name = "ASTRONN"
    for number, name in enumerate(plain.colnames, start=1):
        unit, description = table[name].unit, table[name].description
        # FITS knows no "dex": readers warn of each such column, so the comment says it.
        if unit == "dex":
            description += " [dex]"
        elif unit is not None:
            hdu.header[f"TUNIT{number}"] = unit.to_string("fits")
        hdu.header[f"TCOMM{number}"] = description
    for bit, meaning in flags.items():
        hdu.header["COMMENT"] = f"result_flags {bit}: {meaning}"
    if notice is not None:
        hdu.header["COMMENT"] = notice
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def _write_parquet(table: Table, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    fields, arrays = [], []
    for name in table.colnames:
        column = table[name]
        mask = np.asarray(column.mask) if isinstance(column, MaskedColumn) else None
        values = pa.array(np.asarray(column), mask=mask)
        about = {"description": column.description, "unit": str(column.unit or "")}
        arrays.append(values)
        fields.append(pa.field(name, values.type, metadata=about))
    schema = pa.schema(fields, metadata={"astronn-stream": json.dumps(dict(table.meta))})
    parquet.write_table(pa.table(arrays, schema=schema), path)


def _write_text(table: Table, path: Path) -> None:
    """CSV or ECSV, in UTF-8 whatever the locale."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table.write(file, format=f"ascii{path.suffix}")


_WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".fits": _write_fits,
    ".parquet": _write_parquet,
    ".csv": _write_text,
    ".ecsv": _write_text,
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
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: its folder is missing or read-only.")


def write_table(table: Table, path: Path) -> None:
    """Write a table in the format of the file's ending; the file is replaced in one step.

    Raises
    ------
    UsageError
        See :func:`check_output`.
    """
    check_output(path)
    with _replacing(path) as temporary:
        _WRITERS[path.suffix](table, temporary)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that takes its place when all went well, and is gone otherwise."""
    with tempfile.TemporaryDirectory(
        prefix=".astronn-stream-", dir=path.absolute().parent
    ) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)
