"""Connections to the database, and bringing its tables up to date."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session

from worker.database.frozen import frozen_url, is_frozen, staying_frozen
from worker.errors import FatalError, TransientError, UsageError
from worker.outage import Outage

_SQLITE_BUSY_SECONDS = 30
_MIGRATIONS = Path(__file__).parent / "migrations"
#: A database without an encoding gives bytes unless asked for text.
_POSTGRESQL = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",
}
#: PostgreSQL's codes for a table and a column that are not there, and for a server that only reads.
_NO_SUCH = ("42P01", "42703")
_READ_ONLY = "25006"
#: What passes by itself, or once an operator acts: no server, no table yet, a read-only server.
_AWAY = (OperationalError, InterfaceError, InternalError, ProgrammingError)


def open_database(url: str) -> Engine:
    """A SQLite or PostgreSQL database: SQLAlchemy's engine for it.

    Raises
    ------
    FatalError
        The URL cannot be understood. The text leaves out the URL, which may hold a password.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            database = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                connect_args=_POSTGRESQL,
            )
        else:
            database = create_engine(parsed)
    except (ArgumentError, NoSuchModuleError, ValueError, ImportError) as error:
        raise FatalError(
            "The database URL cannot be used; it looks like sqlite:///file.sqlite or "
            "postgresql://user:password@host/database."
        ) from error
    if database.dialect.name == "postgresql":
        event.listen(database, "connect", _prepare_nothing_for_a_pooler)
    if database.dialect.name == "sqlite":
        event.listen(database, "connect", _configure_sqlite)
        event.listen(database, "begin", _begin_sqlite)
    return database


def _prepare_nothing_for_a_pooler(connection: Any, _record: Any) -> None:
    """PgBouncer gives each transaction another server, which knows no statement of the one before.

    A pooler shows itself by a process number of its own. Without one preparing halves what a row
    costs.
    """
    try:
        (server,) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
        connection.rollback()
    except Exception:
        connection.close()  # nobody else knows of it yet
        raise
    if server != connection.info.backend_pid:
        connection.prepare_threshold = None


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Readers and one writer side by side; a second writer waits instead of failing."""
    connection.isolation_level = None  # _begin_sqlite says BEGIN, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: one that has read first cannot wait for it any more."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upgrade(database: Engine) -> None:
    """Bring the tables to the newest migration; an up-to-date database is left alone.

    Raises
    ------
    FatalError
        The database cannot be opened, or is of a newer version of this software.
    TransientError
        The database server does not answer.
    """
    try:
        if not _is_current(database):
            _migrate(database)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        away = database.dialect.name != "sqlite" or "locked" in reason
        if away and isinstance(error, OperationalError):
            raise TransientError(f"The database does not answer: {reason}.") from error
        file = f" {_file_of(database)}" if database.dialect.name == "sqlite" else ""
        raise FatalError(f"The database{file} cannot be opened: {reason}.") from error


def _is_current(database: Engine) -> bool:
    """Whether the newest migration has been applied; asked without the slow import of Alembic."""
    newest = max(path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
    with database.connect() as connection:
        if not database.dialect.has_table(connection, "alembic_version"):
            return False
        applied = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars()
        return applied.all() == [newest.partition("_")[0]]


def _migrate(database: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    try:
        with database.execution_options(writes=True).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise FatalError(
            f"The database cannot be brought up to date ({error}); was it made by a newer "
            "version of astronn-stream?"
        ) from error


def exists(url: str) -> bool:
    """Whether there is a database to read; asking must not make a SQLite file.

    Raises
    ------
    FatalError
        The folder of a SQLite file cannot be entered.
    """
    database = open_database(url)
    try:
        return database.dialect.name != "sqlite" or _file_of(database).exists()
    except PermissionError as error:
        raise FatalError(f"The database cannot be opened: {error.strerror}.") from error


def _file_of(database: Engine) -> Path:
    return Path(database.url.database or "")


@contextmanager
def opened_to_read(url: str) -> Iterator[Engine]:
    """A database as it is, its connections closed at the end.

    Of SQLite also one beside which nothing can be written.

    Raises
    ------
    FatalError
        As :func:`open_database`; or such a file cannot be read there, or was written meanwhile.
    """
    database = open_database(url)
    file = _file_of(database)
    frozen = database.dialect.name == "sqlite" and is_frozen(file)
    if frozen:
        database = create_engine(frozen_url(file))
    try:
        with staying_frozen(file) if frozen else nullcontext():
            yield database
    finally:
        database.dispose()


def check_exists(url: str) -> None:
    """Make sure that there is a database.

    Raises
    ------
    UsageError
        There is none.
    """
    if not exists(url):
        raise UsageError("There is no database here yet; `astronn-stream run` makes one.")


@contextmanager
def existing(url: str) -> Iterator[Engine]:
    """A database for reading, as it is, its connections closed at the end.

    Raises
    ------
    UsageError
        There is none.
    FatalError
        The file is no database, is damaged, or cannot be read where it lies.
    """
    check_exists(url)
    with opened_to_read(url) as database:
        try:
            yield database
        except DatabaseError as error:
            if type(error) is not DatabaseError:  # its kinds, such as refused values, are others'
                raise
            raise FatalError(f"The database cannot be read: {error.orig}.") from error


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """An up-to-date database, its connections closed at the end.

    Closing the last connection of a SQLite database also removes its ``-wal`` and ``-shm``.
    """
    database = open_database(url)
    try:
        upgrade(database)
        yield database
    finally:
        database.dispose()


def wait_for_database(url: str, action: str) -> None:
    """Bring the tables up to date, as soon as the database answers; the log names the action."""
    outage = Outage(action)
    while True:
        try:
            with opened(url):
                return outage.end()
        except TransientError as error:
            outage.begin(error)
            time.sleep(1)


@contextmanager
def transaction(database: Engine) -> Iterator[Session]:
    """A session for writing, committed at the end, or rolled back when it raises.

    Raises
    ------
    TransientError
        The database is away, or another writer held it too long.
    """
    with (
        _reachable(database),
        Session(database.execution_options(writes=True)) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def reading(database: Engine) -> Iterator[Connection]:
    """A connection for reading.

    Raises
    ------
    TransientError
        The database is away.
    """
    with _reachable(database), database.connect() as connection:
        yield connection


@contextmanager
def _reachable(database: Engine) -> Iterator[None]:
    """Turn errors that pass, by themselves or once an operator acts, into ``TransientError``."""
    try:
        yield
    except _AWAY as error:
        if _code(error) == _READ_ONLY:
            # After a failover the old server still answers: ask anew who writes.
            database.dispose()
        raise TransientError(why_not(error)) from error


def why_not(error: DBAPIError) -> str:
    """What keeps the database from serving, in one sentence."""
    reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0].rstrip(".")
    if _code(error) in _NO_SUCH or reason.startswith(("no such table", "no such column")):
        return f"The database's tables do not fit: {reason}; run `astronn-stream db upgrade`."
    if _code(error) == _READ_ONLY:
        return f"The database takes no writing: {reason}."
    if isinstance(error, ProgrammingError):
        return f"The database refuses: {reason}."
    return f"The database does not answer: {reason}."


def _code(error: DBAPIError) -> str | None:
    """PostgreSQL's code of an error; None of SQLite."""
    return getattr(error.orig, "sqlstate", None)
