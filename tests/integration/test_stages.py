"""The stages on a real Redis and a real database, message by message, without worker processes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from sqlalchemy import Engine, select

import worker.stages.infer as infer_stage
from producer.dispatch import dispatch
from producer.register import Registered, register
from producer.sources import find_files, spectra_of
from worker.app import QUEUES, app, publish
from worker.arrays import Absent, ArrayStore, array_store
from worker.database.session import opened, transaction
from worker.database.tables import AstroNN, Job, JobState
from worker.errors import TransientError
from worker.messages import InferSpectra, LoadSpectra, NoResult, RecordLabels
from worker.network.checkpoint import weights_sha256
from worker.settings import get_settings
from worker.spectra.pixels import N_PIXELS
from worker.stages import load as load_stage
from worker.stages import record as record_stage

STAGES = {
    "load": (LoadSpectra, load_stage.load),
    "infer": (InferSpectra, infer_stage.infer),
    "record": (RecordLabels, record_stage.record),
    "no_result": (NoResult, record_stage.no_result),
}


@dataclass
class Stream:
    """A broker to look into, and the jobs of the real files."""

    client: redis.Redis
    engine: Engine
    registered: Registered
    weights: str

    def queued(self, queue: str) -> list[dict[str, Any]]:
        """The messages in a queue, oldest first, as they lie in Redis."""
        return [json.loads(content) for content in reversed(self.client.lrange(queue, 0, -1))]

    def take(self, queue: str) -> tuple[str, dict[str, Any]] | None:
        """The oldest message: its task's name and its body."""
        content = self.client.rpop(queue)
        if content is None:
            return None
        message = json.loads(content)
        arguments, _, _ = json.loads(base64.b64decode(message["body"]))
        return message["headers"]["task"], arguments[0]

    def send(self, lane: str = "bulk", jobs: list[int] | None = None) -> int:
        """Dispatch jobs: all that are open, unless some are named."""
        return dispatch(
            self.engine,
            self.registered.open_jobs if jobs is None else jobs,
            publish,
            weights=self.weights,
            lane=lane,  # type: ignore[arg-type]
            chunk_size=8,
        )

    def drain(self, times: int = 1) -> int:
        """Serve all queues until they are empty, each message ``times`` over."""
        served = 0
        while taken := next(filter(None, map(self.take, self._queues())), None):
            message_type, function = STAGES[taken[0]]
            for _ in range(times):
                function(message_type.model_validate(taken[1]))  # type: ignore[operator]
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


@pytest.fixture
def stream(
    monkeypatch: pytest.MonkeyPatch,
    redis_socket: Path,
    redis_urls: tuple[str, str],
    database_url: str,
    apstar_folder: Path,
    astra_weights: Path,
    corrections_pickle: Path,
) -> Iterator[Stream]:
    values = {
        "BROKER_URL": redis_urls[0],
        "ARRAYS_URL": redis_urls[1],
        "DATABASE_URL": database_url,
        "DATA_ROOT": str(apstar_folder),
        "MODEL": str(astra_weights),
        "CORRECTIONS": str(corrections_pickle),
        "MC_SAMPLES": "4",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"ASTRONN_STREAM_{name}", value)
    forget_process_state()
    app.conf.broker_url = redis_urls[0]  # Celery reads the settings once in a process
    files = find_files([apstar_folder], apstar_folder)[:3]
    weights = weights_sha256(astra_weights)
    with opened(database_url) as engine, redis.Redis(unix_socket_path=str(redis_socket)) as client:
        entries = [entry for file in files for entry in spectra_of(file, apstar_folder, "both")]
        with transaction(engine) as session:
            jobs = register(session, entries, weights=weights, tag="", lane="bulk")
        yield Stream(client, engine, jobs, weights)
        record_stage.database().dispose()
    forget_process_state()


def forget_process_state() -> None:
    """What a worker process opens once: settings, connections, network."""
    for cached in (get_settings, array_store, record_stage.database, record_stage.noise_model):
        cached.cache_clear()
    if infer_stage._inference is not None:
        infer_stage._inference.close()
    infer_stage._inference = None


def test_every_job_ends_as_one_row_with_labels(stream: Stream) -> None:
    assert stream.send() == len(stream.registered.jobs) == 12
    stream.drain()
    rows = stream.rows()
    assert sorted(rows) == sorted(stream.registered.jobs)
    assert all(teff is not None for teff, *_ in rows.values())
    with stream.engine.connect() as connection:
        assert set(connection.scalars(select(Job.state))) == {JobState.DONE}


def test_delivering_every_message_twice_gives_the_same_rows(stream: Stream) -> None:
    stream.send()
    stream.drain()
    once = stream.rows()
    with transaction(stream.engine) as session:
        for row in session.scalars(select(AstroNN)):
            session.delete(row)
        for job in session.scalars(select(Job)):
            job.state = JobState.WAITING
    stream.send()
    stream.drain(times=2)
    assert stream.rows() == once


def test_messages_are_small_json_without_arrays(stream: Stream) -> None:
    stream.send()
    for message in stream.queued("load.bulk"):
        assert message["content-type"] == "application/json"
        assert len(json.dumps(message)) < 10_000
    stream.drain()


def test_flower_sees_the_spectra_as_arguments(stream: Stream) -> None:
    stream.send(jobs=stream.registered.jobs[:2])
    (message,) = stream.queued("load.bulk")
    assert message["headers"]["argsrepr"] == "(2 spectra: 1, 2)"


def test_the_files_of_a_chunk_are_whole(stream: Stream) -> None:
    stream.send()
    chunks = []
    while taken := stream.take("load.bulk"):
        chunks.append({spectrum["path"] for spectrum in taken[1]["spectra"]})
    assert len(chunks) == 2
    assert chunks[0].isdisjoint(chunks[1])


def test_flux_that_is_gone_is_loaded_again(stream: Stream) -> None:
    stream.send()
    while taken := stream.take("load.bulk"):
        load_stage.load(LoadSpectra.model_validate(taken[1]))
    assert stream.client.llen("infer.bulk") == 2
    with redis.Redis.from_url(get_settings().arrays) as arrays:
        keys = arrays.keys("astronn-stream:flux:*")
        assert len(keys) == 2
        arrays.delete(*keys)
    stream.drain()
    assert len(stream.rows()) == 12


def test_flux_frees_its_memory_once_it_is_used(stream: Stream) -> None:
    stream.send()
    stream.drain()
    with redis.Redis.from_url(get_settings().arrays) as arrays:
        assert {arrays.strlen(key) for key in arrays.keys("*")} == {len(b"finished")}


def test_a_live_lane_stays_live_through_the_stages(stream: Stream) -> None:
    stream.send(lane="live")
    assert stream.client.llen("load.live") == 2
    _, body = stream.take("load.live") or ("", {})
    load_stage.load(LoadSpectra.model_validate(body))
    assert stream.client.llen("infer.live") == 1
    assert stream.client.llen("infer.bulk") == 0


def test_a_job_for_other_weights_ends_with_a_reason(stream: Stream) -> None:
    stream.weights = "0" * 64
    stream.send()
    stream.drain()
    with transaction(stream.engine) as session:
        reasons = set(session.scalars(select(AstroNN.no_result_reason)))
    assert len(reasons) == 1
    assert "wants the weights 000000000000" in (reasons.pop() or "")


def test_dispatching_again_leaves_done_jobs_alone(stream: Stream) -> None:
    stream.send()
    stream.drain()
    assert stream.send() == 0
    with stream.engine.connect() as connection:
        assert set(connection.scalars(select(Job.state))) == {JobState.DONE}


def test_a_broker_that_fails_leaves_the_jobs_waiting(stream: Stream) -> None:
    def fail(_message: LoadSpectra) -> None:
        raise TransientError("away")

    with pytest.raises(TransientError):
        dispatch(
            stream.engine, stream.registered.jobs, fail, weights="w", lane="bulk", chunk_size=8
        )
    with stream.engine.connect() as connection:
        assert set(connection.scalars(select(Job.state))) == {JobState.WAITING}


def test_a_file_that_vanished_becomes_rows_with_a_reason(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_DATA_ROOT", str(tmp_path))
    get_settings.cache_clear()
    stream.send()
    stream.drain()
    with transaction(stream.engine) as session:
        reasons = list(session.scalars(select(AstroNN.no_result_reason)))
    assert len(reasons) == 12
    assert all("does not exist" in (reason or "") for reason in reasons)


def test_a_stage_that_fails_by_surprise_ends_its_spectra_with_the_error(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(load_stage, "load_spectra", fail)
    stream.send()
    while taken := stream.take("load.bulk"):
        load_stage.load_task(taken[1])
    stream.drain()
    with transaction(stream.engine) as session:
        reasons = set(session.scalars(select(AstroNN.no_result_reason)))
    assert reasons == {"The load stage failed: ZeroDivisionError('a defect')."}
    assert len(stream.rows()) == 12


@pytest.fixture
def store(redis_urls: tuple[str, str]) -> ArrayStore:
    return ArrayStore(redis_urls[1], ttl=100)


def test_the_array_store_gives_back_what_it_got(store: ArrayStore) -> None:
    flux = np.random.default_rng(1).normal(size=(3, N_PIXELS)).astype(np.float32)
    store.put("key", flux)
    np.testing.assert_array_equal(store.get("key", 3), flux)


def test_the_array_store_knows_no_array_of_another_size(store: ArrayStore) -> None:
    store.put("key", np.zeros((2, N_PIXELS), dtype=np.float32))
    assert store.get("key", 3) is Absent.GONE
    assert store.get("other", 2) is Absent.GONE


def test_flux_that_has_served_is_told_from_flux_that_is_gone(store: ArrayStore) -> None:
    store.put("key", np.zeros((2, N_PIXELS), dtype=np.float32))
    store.finish("key")
    assert store.get("key", 2) is Absent.FINISHED


def test_arrays_have_a_time_to_live(store: ArrayStore, redis_urls: tuple[str, str]) -> None:
    store.put("key", np.zeros((1, N_PIXELS), dtype=np.float32))
    with redis.Redis.from_url(redis_urls[1]) as client:
        assert 0 < client.ttl("key") <= 100


def test_an_array_store_that_is_away_is_transient(tmp_path: Path) -> None:
    store = ArrayStore(f"unix://{tmp_path / 'none.sock'}?db=1", ttl=1)
    with pytest.raises(TransientError, match="array store"):
        store.get("key", 1)
