from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from pyarrow import parquet
from pyarrow.parquet import ParquetFile
from sqlalchemy import Engine

from worker.errors import FatalError, UsageError
from worker.results.columns import table_columns
from worker.results.read import read_table
from worker.tables import export, packing
from worker.tables.export import _arrow, _write, check_output, write_table
from worker.tables.packing import batches
from worker.version import software_version

FORMATS = (".fits", ".parquet", ".csv", ".ecsv", ".vot")
INTEGERS = ("healpix", "mjd", "fiber", "n_visits", "spectrum_flags", "source_pk")


def read_back(path: Path) -> Table:
    """The file as a reader without knowledge of this software sees it."""
    if path.suffix == ".parquet":
        columns = parquet.read_table(path).to_pydict()
        masks = {name: [value is None for value in values] for name, values in columns.items()}
        return Table(
            {
                name: MaskedColumn([0 if v is None else v for v in values], mask=masks[name])
                for name, values in columns.items()
            }
        )
    if path.suffix == ".csv":  # numbers and names look alike there
        names = [column.name for column in table_columns() if column.dtype == "str"]
        return Table.read(path, converters=dict.fromkeys(names, str))
    return Table.read(path)


def plain(value: Any) -> Any:
    if value is np.ma.masked:
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def assert_same(value: Any, expected: Any, name: str) -> None:
    if isinstance(expected, float) and math.isnan(expected):
        assert value is None or math.isnan(value), name
    elif expected == "" or expected is None:
        assert value in ("", None), name
    elif isinstance(expected, bool):
        assert value in (expected, str(expected)), name
    else:
        assert value == expected, name


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_written_can_be_read_back(table: Table, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"labels{ending}"
    write_table(table, path)
    back = read_back(path)
    assert back.colnames == table.colnames
    assert len(back) == 5
    for name in table.colnames:
        for value, expected in zip(back[name], table[name], strict=True):
            wanted = plain(expected)
            if ending in (".fits", ".vot") and isinstance(wanted, str):
                # FITS knows printable ASCII alone; a VOTable's `char` ASCII.
                wanted = wanted.encode("ascii", "backslashreplace").decode().replace("\n", "\\x0a")
            assert_same(plain(value), wanted, name)


@pytest.mark.parametrize("ending", FORMATS)
def test_missing_integers_do_not_read_as_numbers(table: Table, tmp_path: Path, ending: str) -> None:
    write_table(table, tmp_path / f"labels{ending}")
    back = read_back(tmp_path / f"labels{ending}")
    for name in (*INTEGERS, "mc_samples", "seed"):
        wanted = [value is np.ma.masked for value in table[name]]
        found = [value is np.ma.masked for value in back[name]]
        assert found == wanted, name


@pytest.mark.parametrize("ending", FORMATS)
def test_missing_floats_are_null_or_empty_where_the_format_has_that(
    table: Table, tmp_path: Path, ending: str
) -> None:
    table["k_h"][:2] = np.nan  # as a label that was not learnt
    path = tmp_path / f"labels{ending}"
    write_table(table, path)
    missing = [True, True, False, False, True]
    if ending == ".fits":
        with fits.open(path) as hdus:
            assert np.isnan(hdus["ASTRONN"].data["k_h"]).tolist() == missing
        return
    if ending in (".csv", ".ecsv"):
        assert "nan" not in path.read_text("utf-8").lower()
    back = read_back(path)["k_h"]
    assert [value is np.ma.masked for value in back] == missing


def test_ecsv_keeps_units_types_and_descriptions(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "labels.ecsv")
    back = Table.read(tmp_path / "labels.ecsv")
    for name in table.colnames:
        assert back[name].unit == table[name].unit, name
        assert back[name].description == table[name].description, name
        assert back[name].dtype.kind == table[name].dtype.kind, name
    assert back.meta["result_flags"] == table.meta["result_flags"]
    assert "bit 11" in back.meta["result_flags"]


def test_fits_keeps_units_that_it_knows_and_names_the_others(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "labels.fits")
    back = Table.read(tmp_path / "labels.fits")
    assert back["e_teff"].unit == units.K
    assert back["mjd"].unit == units.d
    with fits.open(tmp_path / "labels.fits") as hdus:
        hdus.verify("exception")
        columns = hdus["ASTRONN"].columns
        comments = {
            name: hdus["ASTRONN"].header[f"TCOMM{number}"]
            for number, name in enumerate(columns.names, start=1)
        }
        notes = str(hdus["ASTRONN"].header["COMMENT"])
    assert comments["teff"] == table["teff"].description
    assert comments["fe_h"] == f"{table['fe_h'].description} [dex]"
    assert all(description.rstrip() for description in comments.values())
    assert "bit 11" in notes
    assert "dex" not in {column.unit for column in columns}


def test_parquet_keeps_units_types_and_descriptions(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "labels.parquet")
    schema = parquet.read_schema(tmp_path / "labels.parquet")
    for name in table.colnames:
        field = schema.field(name)
        assert field.metadata[b"description"].decode() == table[name].description
        assert field.metadata[b"unit"].decode() == str(table[name].unit or "")
    types = {name: str(schema.field(name).type) for name in table.colnames}
    assert (types["teff"], types["task_pk"], types["healpix"]) == ("float", "int64", "int32")
    assert (types["flag_bad"], types["no_result_reason"]) == ("bool", "string")
    meta = json.loads(schema.metadata[b"astronn-stream"])
    assert meta["software"] == f"astronn-stream {software_version()}"


@pytest.mark.parametrize("ending", FORMATS)
def test_a_table_without_rows_can_be_written(engine: Engine, tmp_path: Path, ending: str) -> None:
    empty = read_table(engine, tag="none")
    write_table(empty, tmp_path / f"empty{ending}")
    back = read_back(tmp_path / f"empty{ending}")
    assert len(back) == 0
    assert back.colnames == [column.name for column in table_columns()]


def test_writing_leaves_the_table_as_it_was(table: Table, tmp_path: Path) -> None:
    before = [(c.name, c.unit, c.description, c.dtype) for c in table.itercols()]
    meta = json.dumps(dict(table.meta))
    for ending in FORMATS:
        write_table(table, tmp_path / f"labels{ending}")
        assert [(c.name, c.unit, c.description, c.dtype) for c in table.itercols()] == before
        assert json.dumps(dict(table.meta)) == meta


# --- Where a file cannot be written --------------------------------------------------------


@pytest.mark.parametrize("check", [check_output, lambda path: write_table(Table(), path)])
@pytest.mark.parametrize("name", ["labels.txt", "labels", "labels.fits.gz", "labels.FITS "])
def test_another_ending_is_refused(
    tmp_path: Path, check: Callable[[Path], None], name: str
) -> None:
    with pytest.raises(
        UsageError, match=r"must end in one of \.fits, \.parquet, \.csv, \.ecsv, \.vot"
    ):
        check(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [check_output, lambda path: write_table(Table(), path)])
def test_a_place_that_cannot_take_a_file_is_refused(
    tmp_path: Path, check: Callable[[Path], None]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for name in ("missing/labels.csv", "folder.csv", "file/labels.csv"):
        with pytest.raises(UsageError, match="cannot be written"):
            check(tmp_path / name)


@pytest.mark.parametrize("ending", FORMATS)
def test_an_old_file_is_replaced(table: Table, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"labels{ending}"
    path.write_text("old")
    write_table(table[:2], path)
    assert read_back(path)["task_pk"].tolist() == [15, 11]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_failure_while_writing_leaves_the_old_file_and_no_other(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / f"labels{ending}"
    path.write_text("old")

    def fail(_rows: ParquetFile, _meta: dict[str, Any], temporary: Path) -> None:
        temporary.write_text("half a table")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_writer", lambda _: fail)
    with pytest.raises(FatalError, match=r"labels\.\w+ cannot be written: No space left on device"):
        write_table(table, path)
    assert [each.name for each in folder.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_what_was_written_does_not_stay_in_memory(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "ROWS_AT_ONCE", 1)
    megabyte = 1 << 20
    random = np.random.default_rng(0)
    rows = _arrow(table[:1])
    place = rows.schema.get_field_index("no_result_reason")
    parts = [
        rows.set_column(place, rows.field(place), pa.array([random.bytes(megabyte // 2).hex()]))
        for _ in range(20)
    ]
    held = pa.total_allocated_bytes()
    most = 0

    def count(rows: ParquetFile, _meta: Mapping[str, Any], path: Path) -> None:
        nonlocal most
        for _ in batches(rows):
            most = max(most, pa.total_allocated_bytes() - held)
        path.touch()

    _write(tmp_path / "labels.fits", parts, count)
    assert most < 6 * megabyte
