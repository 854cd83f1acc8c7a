"""PostgreSQL behind a pooler, after a failover, and without an encoding."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError

from benchmarks.rig.servers import free_port
from benchmarks.rig.waiting import wait_for
from tests.integration.test_database import count, labels_of, registered
from worker.database.session import open_database, opened, transaction
from worker.database.tables import AstroNN, Job, JobState
from worker.errors import TransientError
from worker.results.noise_model import identity
from worker.results.record import record_labels


@pytest.fixture
def unencoded(postgres_maintenance: Engine) -> Iterator[str]:
    """A database as `initdb` under locale C makes it."""
    with postgres_maintenance.connect() as connection:
        connection.execute(
            text("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        )
    yield postgres_maintenance.url.set(database="ascii").render_as_string(hide_password=False)
    with postgres_maintenance.connect() as connection:
        connection.execute(text("DROP DATABASE ascii WITH (FORCE)"))


def assert_it_serves(engine: Engine) -> None:
    """Jobs are opened and get their rows, in transactions enough for anyone to be prepared."""
    jobs = registered(engine, 12).jobs
    for job in jobs:
        with transaction(engine) as session:
            assert record_labels(session, labels_of(engine, [job]), identity()) == 1
    assert count(engine, AstroNN) == 12


def test_a_database_without_an_encoding_serves(unencoded: str) -> None:
    with opened(unencoded) as engine:
        assert_it_serves(engine)
        with transaction(engine) as session:
            assert set(session.scalars(select(Job.state))) == {JobState.DONE}


def test_after_a_failover_the_server_that_only_reads_is_left(postgres_url: str) -> None:
    with opened(postgres_url) as engine:
        database = make_url(postgres_url).database
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(
                text(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
            )
        engine.dispose()
        with pytest.raises(TransientError, match="takes no writing: cannot execute INSERT"):
            registered(engine, 1)
        writer = create_engine(engine.url)
        with writer.connect() as connection:
            connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"))
            connection.commit()
            connection.execute(
                text(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
            )
            connection.commit()
        writer.dispose()
        assert_it_serves(engine)  # by a new connection, for the old one still only reads


@pytest.fixture
def pooled(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """The database behind PgBouncer, which gives each transaction another connection."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    url, port = make_url(postgres_url), free_port()
    user = Path(str(url.query["host"])).owner()  # as root the server runs as a user of its own
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={url.query['host']} user={url.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        f"pool_mode = transaction\nunix_socket_dir =\nuser = {user}\n"
        "server_round_robin = 1\nmin_pool_size = 3\n"
    )
    log = (tmp_path / "pgbouncer.log").open("wb")
    process = subprocess.Popen([program, tmp_path / "pgbouncer.ini"], stdout=log, stderr=log)
    pooled = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    try:
        wait_for(lambda: answers(pooled), "PgBouncer", 5)
        yield pooled
    finally:
        process.kill()
        process.wait()
        log.close()


def answers(url: str) -> bool:
    engine = open_database(url)
    try:
        with engine.connect():
            return True
    except DBAPIError:
        return False
    finally:
        engine.dispose()


def test_a_pooler_serves(pooled: str) -> None:
    with opened(pooled) as engine, opened(pooled) as other:
        jobs = registered(engine, 24).jobs
        for number, job in enumerate(jobs):
            with transaction(other) as busy:  # now and then it has the connection of before
                if number % 2:
                    busy.execute(text("SELECT 1"))
                with transaction(engine) as session:
                    assert record_labels(session, labels_of(engine, [job]), identity()) == 1
        assert count(engine, AstroNN) == 24
