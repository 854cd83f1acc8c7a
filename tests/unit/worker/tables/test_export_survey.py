"""Coadds and visits apart, several blocks of rows, and what readers of these files see."""

from __future__ import annotations

import io
import json
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
from astropy.io import fits
from astropy.io.votable import parse, validate
from astropy.table import Table
from pyarrow import parquet
from sqlalchemy import Engine, event, update
from typer.testing import CliRunner

from producer.commands.main import command_line
from worker.database.session import transaction
from worker.database.tables import AstroNN
from worker.errors import FatalError, UsageError
from worker.results import load_results, read
from worker.results.read import RowSelection, read_table
from worker.settings import PREFIX, get_settings
from worker.starter.bundled import STARTER
from worker.tables import export, packing
from worker.tables.export import SURVEY_FILES, write_results, write_survey, write_table

FORMATS = (".fits", ".parquet", ".csv", ".ecsv", ".vot")


def url_of(engine: Engine) -> str:
    return str(engine.url)


def test_coadds_and_visits_are_apart_below_an_empty_table_for_boss(
    engine: Engine, tmp_path: Path
) -> None:
    written = write_survey(engine, RowSelection(), tmp_path)
    assert [each.rows for each in written] == [1, 4]
    for each, (kind, name) in zip(written, SURVEY_FILES.items(), strict=True):
        assert each.path == tmp_path / name
        with fits.open(each.path) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "BOSS", "APOGEE"]
            assert len(hdus["BOSS"].data) == 0
            assert hdus["BOSS"].columns.names == hdus["APOGEE"].columns.names
            assert set(hdus["APOGEE"].data["kind"]) == {kind}
            assert "bit 11: no_result" in str(hdus["APOGEE"].header["COMMENT"])
        whole = read_table(engine, kind=kind)
        assert Table.read(each.path, hdu=2)["task_pk"].tolist() == whole["task_pk"].tolist()


def test_one_kind_alone_makes_one_file(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (only,) = write_survey(engine, RowSelection(kind="visit"), folder)
    assert [only.path] == list(folder.iterdir())


def test_the_folder_of_the_surveys_files_is_made(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tables"
    assert [each.path.parent for each in write_survey(engine, RowSelection(), folder)] == [
        folder
    ] * 2
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"The folder .*file cannot be made: File exists\."):
        write_survey(engine, RowSelection(), tmp_path / "file")


@pytest.mark.parametrize("ending", FORMATS)
def test_blocks_join_without_a_seam(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    whole, parts = tmp_path / f"whole{ending}", tmp_path / f"parts{ending}"
    write_results(engine, RowSelection(), whole)
    monkeypatch.setattr(read, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(packing, "ROWS_AT_ONCE", 2)
    assert write_results(engine, RowSelection(), parts).rows == 5
    if ending == ".parquet":  # its groups of rows are the blocks
        pandas.testing.assert_frame_equal(pandas.read_parquet(parts), pandas.read_parquet(whole))
    else:
        assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("ending", FORMATS)
def test_the_database_and_a_table_of_it_make_the_same_file(
    engine: Engine, table: Table, tmp_path: Path, ending: str
) -> None:
    write_results(engine, RowSelection(), tmp_path / f"one{ending}")
    write_table(table, tmp_path / f"other{ending}")
    assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"other{ending}").read_bytes()


def test_a_votable_is_valid_and_keeps_units_and_what_is_missing(
    engine: Engine, table: Table, tmp_path: Path
) -> None:
    path = tmp_path / "labels.vot"
    write_results(engine, RowSelection(), path)
    told = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert validate(path, output=told), told.getvalue()
    back = parse(path).get_first_table()
    assert back.nrows == len(table)
    by_name = {field.name: field for field in back.fields}
    for name in table.colnames:
        assert by_name[name].description == table[name].description, name
        assert str(by_name[name].unit or "") == str(table[name].unit or ""), name
    infos = {info.name: info.value for info in parse(path).resources[0].infos}
    assert infos["result_flags_bit_1"].startswith("uncertain_teff")


def test_pandas_reads_the_same_numbers(engine: Engine, table: Table, tmp_path: Path) -> None:
    for ending, reader in ((".csv", pandas.read_csv), (".parquet", pandas.read_parquet)):
        write_results(engine, RowSelection(), tmp_path / f"labels{ending}")
        frame = reader(tmp_path / f"labels{ending}")
        for name in ("teff", "raw_e_ni_h", "snr"):
            np.testing.assert_array_equal(frame[name].to_numpy(np.float32), table[name])
        assert frame["flag_bad"].tolist() == table["flag_bad"].tolist()
        assert frame["mjd"].isna().tolist() == table["mjd"].mask.tolist()


def test_a_notice_counts_the_rows_that_were_written(engine: Engine, tmp_path: Path) -> None:
    """The stream may record more while a table is written, so nothing is asked twice."""
    with transaction(engine) as session:
        own = update(AstroNN).where(AstroNN.weights_name == "own.pt")
        session.execute(own.values(weights_name=STARTER.rows_name))
    table = read_table(engine)
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *about: asked.append(about[2]))
    written = write_results(engine, RowSelection(), tmp_path / "labels.ecsv")
    assert sum("FROM astronn" in statement for statement in asked) == 1
    assert written.notice is not None
    assert written.notice.startswith("4 of 5 rows come from the ")
    assert Table.read(tmp_path / "labels.ecsv").meta["notice"] == written.notice
    write_table(table[:2], tmp_path / "some.parquet")
    meta = json.loads(parquet.read_schema(tmp_path / "some.parquet").metadata[b"astronn-stream"])
    assert meta["notice"].startswith("1 of 2 rows come from the ")


def test_results_load_as_a_table_with_units(engine: Engine) -> None:
    labels = load_results(url_of(engine), kind="visit", where="not flag_no_result and teff < 5000")
    assert labels["spectrum_pk"].tolist() == [2, 3]
    assert str(labels["teff"].unit) == "K"


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no database here yet"):
        load_results(f"sqlite:///{tmp_path / 'none.sqlite'}")
    with pytest.raises(UsageError, match="none of kind 'coad'"):
        load_results(kind="coad")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("labels of stars, but no database " * 50)
    with pytest.raises(FatalError, match=r"cannot be read: file is not a database\.$"):
        load_results(f"sqlite:///{tmp_path / 'text.sqlite'}")


def test_the_command_names_what_it_wrote_as_it_is_called(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url_of(engine))
    get_settings.cache_clear()
    app = command_line(["export"])
    result = CliRunner().invoke(app, ["export", "--out", "[new] labels.csv", "--kind", "visit"])
    assert result.stdout == "[new] labels.csv: 4 rows\n"


def test_a_signal_to_stop_leaves_the_old_file_and_no_other(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "labels.csv").write_text("old")
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url_of(engine))
    get_settings.cache_clear()

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(export, "_writer", lambda _: interrupted)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    app = command_line(["export"])
    try:
        result = CliRunner().invoke(app, ["export", "--out", str(folder / "labels.csv")])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert result.exit_code == 130
    assert [each.name for each in folder.iterdir()] == ["labels.csv"]
    assert (folder / "labels.csv").read_text() == "old"
