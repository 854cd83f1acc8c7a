"""Spectra that are forgotten, with their jobs and results, on a real Redis and real databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from producer.commands.main import command_line
from producer.ledger.forget import Forgotten, forget
from producer.ledger.register import register
from producer.sources.files import spectra_of
from producer.sources.names import Named
from tests.integration.conftest import Stream
from worker.database.session import transaction
from worker.database.tables import AstroNN, Base, Job, Spectrum
from worker.errors import UsageError
from worker.monitoring.status import read_status
from worker.settings import get_settings


def numbers(stream: Stream) -> tuple[int, ...]:
    """Spectra, jobs and results that there are."""

    def number(table: type[Base]) -> int:
        with stream.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0

    return number(Spectrum), number(Job), number(AstroNN)


def root() -> Path:
    return get_settings().data_root


def invoke(*arguments: object) -> str:
    """The command with these arguments; what it prints, or the error that it raises."""
    given = ["forget", *map(str, arguments)]
    result = CliRunner().invoke(command_line(given), given, catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_file_goes_with_its_jobs_and_results_and_nothing_else(stream: Stream) -> None:
    stream.send()
    stream.drain()
    before = stream.rows()
    file = root() / stream.path_of(stream.registered.jobs[0])
    entries = spectra_of(file, root(), "both")
    number = len(entries)
    whole = (12, 12, 12)
    assert numbers(stream) == whole
    told = f"{number} spectra with {number} jobs and {number} rows of results"
    assert invoke(file, "--dry-run") == f"{told} would be forgotten.\n"
    assert numbers(stream) == whole
    assert invoke(file) == f"{told} forgotten.\n"
    assert numbers(stream) == (12 - number,) * 3
    kept = stream.rows()
    assert kept == {job: row for job, row in before.items() if job in kept}
    assert sum(jobs["done"] for jobs in read_status(get_settings()).jobs.values()) == 12 - number
    with transaction(stream.engine) as session:  # it may come back
        again = register(
            session, entries, weights="w", weights_name="w.pt", tag="", lane="bulk"
        ).jobs
    assert len(again) == number


def test_what_is_under_way_stays_and_all_that_was_named_with_it(stream: Stream) -> None:
    first, *_, last = stream.registered.jobs
    stream.send([last])
    files = [root() / stream.path_of(job) for job in (first, last)]
    with pytest.raises(UsageError, match="1 job of these spectra is under way; wait for the rows"):
        forget(stream.engine, Named(paths=files), root())
    assert numbers(stream) == (12, 12, 0)
    stream.drain()
    assert forget(stream.engine, Named(paths=files), root()).results == 1


def test_a_folder_stands_for_all_below_it_and_a_file_may_be_gone(stream: Stream) -> None:
    with transaction(stream.engine) as session:
        for pk, path in session.execute(select(Spectrum.pk, Spectrum.path)).all():
            spectrum = session.get_one(Spectrum, pk)
            spectrum.path = f"{'Night' if pk % 2 else 'night'}/{path}"
    gone = root() / "night"
    number = forget(stream.engine, Named(paths=[gone]), root())
    assert number == Forgotten(6, 6, 0)
    assert numbers(stream) == (6, 6, 0)
    with pytest.raises(UsageError, match=r"Nothing is registered of .*night\."):
        forget(stream.engine, Named(paths=[gone]), root())


def test_names_are_those_of_the_table_of_results(stream: Stream, tmp_path: Path) -> None:
    with stream.engine.connect() as connection:
        (pk, key), (_, other) = connection.execute(
            select(Spectrum.pk, Spectrum.natural_key).order_by(Spectrum.pk).limit(2)
        ).all()
    (tmp_path / "names").write_text(f"{pk}\n{key}\n")
    assert invoke("--ids", tmp_path / "names").startswith("1 spectrum with 1 job and 0 rows")
    assert invoke(other).startswith("1 spectrum with 1 job and 0 rows")
    with pytest.raises(UsageError, match="is no file, and no spectrum_pk"):
        invoke(key)
    with pytest.raises(UsageError, match="Say which spectra"):
        invoke()
    assert numbers(stream) == (10, 10, 0)
