"""Fixtures of all tests: spectra, weights, and servers that the tests start themselves.

Tests take simulated files and the demonstration weights, which every clone has. Those of them that
``on_real_data`` marks run a second time with real files and the peers' weights and corrections.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import torch
from sqlalchemy import Engine, create_engine, make_url, text

from benchmarks.rig.servers import start_postgres
from benchmarks.rig.waiting import wait_for
from producer.simulation.names import star_path
from producer.simulation.observe import Observing, simulate_stars
from producer.simulation.survey import Survey, first_visits, write_star
from worker.database.session import open_database, upgrade
from worker.local.redis_server import redis_server
from worker.settings import PREFIX, get_settings
from worker.starter.bundled import DEMONSTRATION

if TYPE_CHECKING:
    pass


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
def demonstration_weights() -> Path:
    """The weights for the simulator's own stars, with what is shipped beside them."""
    if not DEMONSTRATION.weights.exists():
        pytest.skip("this checkout holds no demonstration weights")
    return DEMONSTRATION.weights


@dataclass(frozen=True)
class Inputs:
    """Files of three stars or more, the first three with 3, 1 and 5 visits; what to infer with."""

    folder: Path
    weights: Path
    corrections: Path


#: Runs a test with simulated files and the demonstration weights, and with the real and the peers'.
on_real_data = pytest.mark.parametrize("inputs", ["simulated", "real"], indirect=True)


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root of three stars, in the layouts of DR13, DR17 and SDSS-V."""
    folder = tmp_path_factory.mktemp("simulated")
    survey = Survey(stars=3, visits=5, layout="mixed")
    made = simulate_stars(survey.seed, range(3), Observing(visits=5, visit_range=False))
    stars = sorted(
        enumerate(made), key=lambda each: star_path(each[1][0], survey.layout_of(each[0]))
    )
    for (number, (star, visits)), count in zip(stars, (3, 1, 5), strict=True):
        write_star(survey, folder, number, star, first_visits(visits, count), count)
    return folder


@pytest.fixture
def inputs(request: pytest.FixtureRequest) -> Inputs:
    if getattr(request, "param", "simulated") == "real":
        real = ("apstar_folder", "astra_weights", "corrections_pickle")
        return Inputs(*map(request.getfixturevalue, real))
    folder: Path = request.getfixturevalue("simulated_folder")
    weights = request.getfixturevalue("demonstration_weights")
    return Inputs(folder, weights, DEMONSTRATION.corrections)


#: Runs a test with such a file of the demonstration weights, and with the peers' own.
on_peers_weights = pytest.mark.parametrize("weights", ["demonstration", "astra"], indirect=True)


@pytest.fixture(scope="session")
def plain_weights(demonstration_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration weights as Astra's class saves its own: in float32, without metadata."""
    path = tmp_path_factory.mktemp("weights") / "plain.pt"
    state = torch.load(demonstration_weights, weights_only=True)["model_state_dict"]
    single = {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}
    torch.save({"model_state_dict": single}, path)
    return path


@pytest.fixture(scope="module")
def weights(request: pytest.FixtureRequest) -> Path:
    peers = getattr(request, "param", "demonstration") == "astra"
    path: Path = request.getfixturevalue("astra_weights" if peers else "plain_weights")
    return path


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL for the whole session; the URL of its default database."""
    with tempfile.TemporaryDirectory(prefix="astronn-test-") as folder:
        server = start_postgres(Path(folder))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_maintenance(postgres_server: str) -> Iterator[Engine]:
    """The server's default database; the server no longer waits for the disk."""
    engine = create_engine(
        make_url(postgres_server).set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {name} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgres_tables(postgres_maintenance: Engine) -> Iterator[str]:
    """The name of a PostgreSQL database with empty tables, to copy."""
    with _postgres_database(postgres_maintenance, "template1") as url:
        _make_tables(url)
        yield str(make_url(url).database)


@pytest.fixture
def postgres_url(postgres_maintenance: Engine, postgres_tables: str) -> Iterator[str]:
    """A new PostgreSQL database with empty tables."""
    with _postgres_database(postgres_maintenance, postgres_tables) as url:
        yield url


@contextmanager
def _postgres_database(maintenance: Engine, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield maintenance.url.set(drivername="postgresql", database=name).render_as_string(
        hide_password=False
    )
    with maintenance.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def sqlite_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables, to copy."""
    path = tmp_path_factory.mktemp("tables") / "tables.sqlite"
    _make_tables(f"sqlite:///{path}")
    return path


def _make_tables(url: str) -> None:
    engine = open_database(url)
    upgrade(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, with empty tables."""
    if request.param == "sqlite":
        tables = request.getfixturevalue("sqlite_tables")
        return f"sqlite:///{shutil.copy(tables, tmp_path / 'test.sqlite')}"
    url: str = request.getfixturevalue("postgres_url")
    return url
