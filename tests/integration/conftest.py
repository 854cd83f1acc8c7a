"""The stream without worker processes: the stages called message by message, on real servers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, select, update

import worker.stages.infer as infer_stage
from producer.ledger.reconcile import Reconciler
from producer.ledger.register import Registered, register
from producer.ledger.release import release
from producer.sources.files import find_files, spectra_of
from tests.conftest import Inputs
from worker.app import app, publish
from worker.database.session import opened, transaction
from worker.database.tables import AstroNN, Job, Spectrum
from worker.identity import weights_sha256
from worker.messages import InferSpectra, LoadSpectra, NoResult, RecordLabels, Setback, Unread
from worker.queues import QUEUES
from worker.settings import Settings, get_settings
from worker.stages import adapter, heartbeat
from worker.stages import load as load_stage
from worker.stages import record as record_stage
from worker.stages.process import Process
from worker.transport.broker import Broker

STAGES = {
    "load": (LoadSpectra, load_stage.load),
    "infer": (InferSpectra, infer_stage.infer),
    "record": (RecordLabels, record_stage.record),
    "no_result": (NoResult, record_stage.no_result),
    "setback": (Setback, record_stage.setback),
    "unread": (Unread, record_stage.unread),
}


@dataclass
class Clock:
    """A clock that a test sets."""

    moment: float = 0.0

    def __call__(self) -> float:
        return self.moment


@dataclass
class Stream:
    """A broker to look into, and the jobs of three files."""

    client: redis.Redis
    engine: Engine
    registered: Registered
    process: Process

    def queued(self, queue: str) -> list[dict[str, Any]]:
        """The messages in a queue, oldest first, as they lie in Redis."""
        return [json.loads(content) for content in reversed(self.client.lrange(queue, 0, -1))]

    def take(self, queue: str) -> tuple[str, dict[str, Any]] | None:
        """The oldest message: its task's name and its body."""
        content = self.client.rpop(queue)
        if content is None:
            return None
        message = json.loads(content)
        return message["headers"]["task"], self.message_of(message)

    @staticmethod
    def message_of(wrapped: dict[str, Any]) -> dict[str, Any]:
        """Our message in Celery's and kombu's wrapping."""
        arguments, _, _ = json.loads(base64.b64decode(wrapped["body"]))
        message: dict[str, Any] = arguments[0]
        return message

    @property
    def weights(self) -> str:
        return weights_sha256(get_settings().weights_file)

    @property
    def broker(self) -> Broker:
        return Broker(self.client, get_settings().broker)

    def send(self, jobs: list[int] | None = None) -> int:
        """Dispatch the jobs that wait: all of them, unless some are named."""
        with self.engine.connect() as connection:
            served = set(connection.scalars(select(Job.weights_sha256)))
        name = self.broker.name()
        return sum(
            release(self.engine, publish, get_settings(), name, weights=weights, jobs=jobs)
            for weights in served
        )

    def reconciler(self, clock: Callable[[], float] = time.monotonic) -> Reconciler:
        return Reconciler(self.engine, self.broker, get_settings(), clock)

    def path_of(self, job: int) -> str:
        """The file of a job's spectrum."""
        with self.engine.connect() as connection:
            statement = select(Spectrum.path).join(Job, Job.spectrum_pk == Spectrum.pk)
            return connection.scalars(statement.where(Job.pk == job)).one()

    def states(self) -> dict[int, str]:
        """States by job."""
        with self.engine.connect() as connection:
            return {row.pk: row.state for row in connection.execute(select(Job.pk, Job.state))}

    def attempts(self) -> set[int]:
        with self.engine.connect() as connection:
            return set(connection.scalars(select(Job.attempts)))

    def reasons(self) -> dict[int, str | None]:
        """Reasons of the rows by job."""
        with self.engine.connect() as connection:
            statement = select(AstroNN.task_pk, AstroNN.no_result_reason)
            return {row.task_pk: row.no_result_reason for row in connection.execute(statement)}

    def change_jobs(self, **values: object) -> None:
        with transaction(self.engine) as session:
            session.execute(update(Job).values(**values))

    def drain(self, times: int = 1) -> int:
        """Serve all queues until they are empty, each message ``times`` over."""
        served = 0
        while taken := next(filter(None, map(self.take, self._queues())), None):
            message_type, function = STAGES[taken[0]]
            for _ in range(times):
                function(message_type.model_validate(taken[1]), self.process)  # type: ignore[operator]
            served += 1
            assert served < 100, "messages beget messages"
        return served

    def rows(self) -> dict[int, tuple[float | None, ...]]:
        """Labels and uncertainties by job."""
        with transaction(self.engine) as session:
            return {
                row.task_pk: (row.teff, row.e_teff, row.fe_h, row.raw_e_ni_h, row.result_flags)
                for row in session.scalars(select(AstroNN))
            }

    @staticmethod
    def _queues() -> list[str]:
        return [queue for queues in QUEUES.values() for queue in queues]


class EnvironmentProcess(Process):
    """A process whose settings are those of the environment at each moment: tests change them."""

    @property
    def settings(self) -> Settings:
        return get_settings()

    @settings.setter
    def settings(self, _: Settings) -> None:
        """What it was made with is the environment's too."""


@pytest.fixture
def stream(
    monkeypatch: pytest.MonkeyPatch,
    redis_socket: Path,
    redis_urls: tuple[str, str],
    database_url: str,
    inputs: Inputs,
) -> Iterator[Stream]:
    values = {
        "BROKER_URL": redis_urls[0],
        "ARRAYS_URL": redis_urls[1],
        "DATABASE_URL": database_url,
        "DATA_ROOT": str(inputs.folder),
        "MODEL": str(inputs.weights),
        "CORRECTIONS": str(inputs.corrections),
        "MC_SAMPLES": "4",
        "CHUNK_SIZE": "8",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"ASTRONN_STREAM_{name}", value)
    get_settings.cache_clear()
    process = EnvironmentProcess(get_settings())
    for module in (adapter, heartbeat):
        monkeypatch.setattr(module, "this_process", lambda: process)
    app.conf.broker_url = redis_urls[0]  # Celery reads the settings once in a process
    files = find_files([inputs.folder], inputs.folder)[:3]
    weights = weights_sha256(inputs.weights)
    with opened(database_url) as engine, redis.Redis(unix_socket_path=str(redis_socket)) as client:
        entries = [entry for file in files for entry in spectra_of(file, inputs.folder, "both")]
        with transaction(engine) as session:
            jobs = register(
                session, entries, weights=weights, weights_name="own.pt", tag="", lane="bulk"
            )
        yield Stream(client, engine, jobs, process)
    process.close()
