"""A finished database in a folder that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_database import labels_of, registered
from worker.database.session import existing, opened, transaction
from worker.errors import FatalError
from worker.monitoring.status import read_status
from worker.results import load_results
from worker.results.noise_model import identity
from worker.results.read import RowSelection
from worker.results.record import record_labels
from worker.settings import Settings
from worker.tables.export import write_results

_NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter, as those of pytest they may not."""
    folder = Path(tempfile.mkdtemp(prefix="at-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def file(folder: Path) -> Path:
    """A database with three results."""
    with opened(f"sqlite:///{folder}/done.sqlite") as database:
        jobs = registered(database, 3).jobs
        with transaction(database) as session:
            record_labels(session, labels_of(database, jobs), identity())
    return folder / "done.sqlite"


def lose_a_row_in_the_wal(file: Path) -> None:
    """Change a database as somebody who is killed then."""
    change = "c.execute('DELETE FROM astronn WHERE task_pk = 1'); c.commit()"
    code = f"import os, sqlite3; c = sqlite3.connect({str(file)!r}); {change}; os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert file.with_name("done.sqlite-wal").stat().st_size > 0


def reading_only(folder: Path, look: Callable[[], object]) -> str:
    """What somebody sees who may write nothing in a folder: a child, for root may always."""
    folder.chmod(0o555)
    here, there = os.pipe()
    if (child := os.fork()) == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        try:
            said = str(look())
        except Exception as error:  # noqa: BLE001 - the parent compares it
            said = repr(error)
        os.write(there, said.encode())
        os._exit(0)
    os.close(there)
    os.waitpid(child, 0)
    with os.fdopen(here) as pipe:
        return pipe.read()


def number_of_rows(file: Path) -> int:
    return len(load_results(f"sqlite:///{file}"))


def test_it_can_be_read_as_any_other(file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{file}"
    load_results(url)  # nobody finds what is imported late
    with existing(url) as database:
        write_results(database, RowSelection(), tmp_path / "labels.csv")
    with tempfile.TemporaryDirectory() as other:
        Path(other).chmod(0o777)

        def look() -> tuple[object, ...]:
            with existing(url) as database:
                rows = write_results(database, RowSelection(), Path(other) / "labels.csv").rows
            status = read_status(Settings(database_url=url))
            return number_of_rows(file), rows, status.database, status.open_jobs()

        assert reading_only(file.parent, look) == "(3, 3, True, 0)"
    assert [path.name for path in file.parent.iterdir()] == ["done.sqlite"]


def test_rows_that_a_killed_writer_left_beside_it_are_read_too(file: Path) -> None:
    load_results(f"sqlite:///{file}")
    lose_a_row_in_the_wal(file)
    assert reading_only(file.parent, lambda: number_of_rows(file)) == "2"


def test_and_where_they_cannot_be_it_is_refused_and_status_says_so(file: Path) -> None:
    load_results(f"sqlite:///{file}")
    lose_a_row_in_the_wal(file)
    file.with_name("done.sqlite-shm").unlink()
    reason = f"The latest rows of the database are in {file}-wal"
    assert f"FatalError('{reason}" in reading_only(file.parent, lambda: number_of_rows(file))
    settings = Settings(database_url=f"sqlite:///{file}")
    assert reason in reading_only(file.parent, lambda: read_status(settings).problems)


def test_a_writer_that_comes_meanwhile_is_noticed(file: Path) -> None:
    def look() -> None:
        with existing(f"sqlite:///{file}"):
            os.utime(file)

    if os.geteuid() == 0:
        os.chown(file, _NOBODY, _NOBODY)  # who may do so
    said = reading_only(file.parent, look)
    assert said == repr(
        FatalError("The database was written while it was read; run the command again.")
    )


def test_a_folder_that_cannot_be_entered_is_told_in_one_sentence(file: Path) -> None:
    inner = file.parent / "closed"
    inner.mkdir()
    file.rename(inner / file.name)
    inner.chmod(0)
    said = reading_only(file.parent, lambda: number_of_rows(inner / file.name))
    inner.chmod(0o755)
    assert said == repr(FatalError("The database cannot be opened: Permission denied."))
