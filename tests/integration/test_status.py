"""What `status` says while parts of the stream are down, and what it costs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from sqlalchemy import event, text, update

import worker.monitoring.status
from benchmarks.rig.waiting import wait_for
from producer.ledger.dispatcher import Dispatcher
from tests.integration.conftest import Stream
from worker.database.session import opened, transaction
from worker.database.tables import Job, JobState, Spectrum, now
from worker.messages import LoadSpectra, NoResult, Setback, failures_of
from worker.monitoring.status import Reason, Status, Worker, _look_at_jobs, read_status
from worker.queues import QUEUES, STAGES
from worker.settings import get_settings
from worker.stages import heartbeat
from worker.stages import infer as infer_stage
from worker.stages import load as load_stage
from worker.stages import record as record_stage
from worker.transport.broker import Broker
from worker.transport.client import broker_answers
from worker.transport.served_weights import tell_served
from worker.transport.vitals import tell_worker
from worker.version import software_version


def look() -> Status:
    return read_status(get_settings())


def live(*names: str) -> None:
    """Let workers of the stages after which they are called have a heartbeat."""
    for name in names:
        stage = next(each for each in STAGES if name.startswith(each))
        serves = QUEUES[stage][: 1 if "-live" in name else None]
        amqp = SimpleNamespace(queues=SimpleNamespace(consume_from=serves))
        eventer = SimpleNamespace(hostname=name, app=SimpleNamespace(amqp=amqp))
        heartbeat.beat(SimpleNamespace(eventer=eventer))


def test_a_stack_that_works_has_no_problems(stream: Stream) -> None:
    assert stream.process.inference
    live(*(f"{stage}@here" for stage in STAGES))
    assert Dispatcher(stream.engine, stream.client, get_settings()).step()
    assert look().problems == []
    for queue, serve in [
        ("load.bulk", load_stage.load_task),
        ("infer.bulk", infer_stage.infer_task),
        ("record", record_stage.record_task),
    ]:
        while taken := stream.take(queue):
            serve(taken[1])
    live("infer@here")
    status = look()
    assert status.problems == []
    assert status.redis
    assert status.database
    assert status.dispatcher
    assert status.weights == stream.weights
    assert status.jobs["bulk"] == {"waiting": 0, "queued": 0, "done": 12}
    assert status.jobs["live"] == {"waiting": 0, "queued": 0, "done": 0}
    assert status.spectra == {"load": 12, "infer": 12, "record": 12, "no_result": 0}
    # Twelve within the last minute, which is between 60 and 70 s long.
    assert 12 / 70 <= status.spectra_per_second["record"] <= 12 / 60
    assert status.eta_seconds == 0
    device = status.workers["infer@here"]
    assert device.device == "cpu"
    assert device.engine in ("cpu (bfloat16)", "cpu (float32)")
    assert 0 < (device.busy or 0) <= 1
    assert 1 <= (device.batch_size or 0) <= 12


def test_a_worker_that_is_silent_is_missed(stream: Stream) -> None:
    # As Slurm's jobs are called: a farm has no worker that is called by its stage alone.
    live("load-12-3@here", "load-live@here", "infer-14-1@here", "record@there")
    assert not [each for each in look().problems if "worker" in each]
    gone = [f"astronn-stream:worker:{name}@here" for name in ("load-12-3", "infer-14-1")]
    assert 0 < stream.client.ttl(gone[1]) <= 10
    stream.client.delete(*gone)
    problems = [each for each in look().problems if "worker" in each]
    assert [each.split()[1] for each in problems] == ["load", "infer"]


def test_a_dispatcher_that_is_silent_is_missed(stream: Stream) -> None:
    assert Dispatcher(stream.engine, stream.client, get_settings()).step()
    assert not [each for each in look().problems if "dispatcher" in each]
    stream.client.delete("astronn-stream:dispatcher")  # as after 15 s
    assert any("No dispatcher answers" in each for each in look().problems)


def test_without_redis_the_database_still_tells(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = f"redis+socket://{tmp_path / 'none.sock'}?virtual_host=0"
    monkeypatch.setenv("ASTRONN_STREAM_BROKER_URL", nowhere)
    get_settings.cache_clear()
    status = look()
    assert status.problems == ["Redis does not answer; is a stack up?"]
    assert not status.redis
    assert status.queues == status.workers == status.spectra_per_second == {}
    assert status.jobs["bulk"]["waiting"] == len(stream.registered.jobs)


@pytest.fixture
def full(stream: Stream) -> Iterator[redis.Redis]:
    """A Redis that cannot write: it then refuses to answer a ping, too."""
    client = stream.client
    place = {name: client.config_get(name)[name] for name in ("dir", "dbfilename")}
    taken = Path(place["dir"]) / place["dbfilename"]  # a server of today lets nobody rename it
    taken.mkdir()
    client.config_set("save", "3600 1000")
    client.bgsave()
    wait_for(lambda: client.info()["rdb_last_bgsave_status"] == "err", "a failure", 10)
    yield client
    client.config_set("save", "")
    taken.rmdir()


def test_a_redis_that_cannot_write_is_looked_at(full: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="MISCONF"):
        full.ping()
    assert broker_answers(get_settings())
    status = look()
    assert status.redis
    assert not status.redis_writes
    assert re.fullmatch(
        r"Redis at /.*\.sock refuses writes: it cannot save its data to its disk \(MISCONF\)\.",
        *status.problems,
    )
    assert status.queues["load.bulk"] == 0
    assert status.database


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///{folder}/none.sqlite", "There is no database yet"),
        ("postgresql://user:a-secret@127.0.0.1:1/none", "The database does not answer"),
    ],
)
def test_without_a_database_redis_still_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, problem: str
) -> None:
    live("load@here")
    heartbeat.count("record", 12)
    monkeypatch.setenv("ASTRONN_STREAM_DATABASE_URL", url.format(folder=tmp_path))
    get_settings.cache_clear()
    status = look()
    assert problem in status.problems[0]
    assert not status.database
    assert status.jobs == {}
    assert status.eta_seconds is None
    assert status.queues["load.bulk"] == 0
    assert list(status.workers) == ["load@here"]
    assert "a-secret" not in status.model_dump_json()
    assert not (tmp_path / "none.sqlite").exists()


def test_a_database_without_tables_is_told(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del stream
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    monkeypatch.setenv("ASTRONN_STREAM_DATABASE_URL", f"sqlite:///{empty}")
    get_settings.cache_clear()
    assert "astronn-stream db upgrade" in look().problems[0]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_is_locked_is_not_waited_for(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.monitoring.status, "_PATIENCE_SECONDS", 1)
    with transaction(stream.engine) as session:
        session.execute(text("LOCK TABLE job, tally"))
        status = look()
    assert "statement timeout" in status.problems[0]
    assert not status.database


def test_a_live_spectrum_that_waits_is_told(stream: Stream) -> None:
    assert look().oldest_live_seconds is None
    stream.change_jobs(lane="live", updated_at=now())
    with transaction(stream.engine) as session:
        first = Job.pk == stream.registered.jobs[0]
        long_ago = now() - timedelta(days=365)
        session.execute(update(Job).where(first).values(updated_at=long_ago))
    status = look()
    assert 364 * 86400 < (status.oldest_live_seconds or 0) < 367 * 86400
    assert any("A live spectrum has waited for" in each for each in status.problems)
    with transaction(stream.engine) as session:
        session.execute(update(Job).where(first).values(state=JobState.DONE))
    assert 0 <= (look().oldest_live_seconds or 0) < 60


def test_spectra_that_do_not_move_are_told(stream: Stream) -> None:
    stream.send()
    assert not any("no row was written" in each for each in look().problems)
    stream.change_jobs(updated_at=now() - timedelta(days=365))
    assert any("no row was written" in each for each in look().problems)
    heartbeat.count("no_result", 1)
    assert not any("no row was written" in each for each in look().problems)


def test_results_that_are_no_jobs_here_change_nothing_and_are_told(stream: Stream) -> None:
    """As after a restore of the database, which hands out its numbers again."""
    stream.send()
    with transaction(stream.engine) as session:
        session.execute(update(Spectrum).values(natural_key=Spectrum.natural_key + " of old"))
    stream.drain()
    assert stream.rows() == {}
    assert set(stream.states().values()) == {JobState.QUEUED}
    status = look()
    assert status.strangers == 12
    assert any("no job's of this database: 12;" in each for each in status.problems)


def test_inference_with_other_weights_than_the_dispatchers_is_told(stream: Stream) -> None:
    tell_served(stream.client, stream.weights)
    tell_worker(stream.client, "infer@a", {"queues": ["infer.live"], "weights": ["0" * 64]})
    missing = f"jobs for the weights {stream.weights[:12]}, which no inference worker serves"
    assert any(missing in each for each in look().problems)
    served = ["0" * 64, stream.weights]
    tell_worker(stream.client, "infer@a", {"queues": ["infer.live"], "weights": served})
    assert not any("no inference worker serves" in each for each in look().problems)


def test_different_versions_are_named_and_their_vitals_harm_nothing(stream: Stream) -> None:
    Broker(stream.client, get_settings().broker).tell_alive()
    tell_worker(stream.client, "load@a", {"queues": ["load.bulk"]})
    assert not any("version" in each for each in look().problems)
    old = {"queues": ["infer.live"], "version": "0.0.9", "wire": "x"}
    tell_worker(stream.client, "infer@a", old)
    (mixed, unknown) = (each for each in look().problems if "version" in each)
    assert "at work: 0.0.9 (infer@a); " in mixed
    assert f"{software_version()} (load@a, dispatcher)" in mixed
    assert "nothing is sent" in unknown
    tell_worker(stream.client, "infer@a", {**old, "weights": "of an older form"})
    assert any("an older version (infer@a)" in each for each in look().problems)


def test_settings_that_make_different_labels_are_named(stream: Stream) -> None:
    vitals = {"queues": ["infer.live"], "settings": {"MC_SAMPLES": "100", "SEED": "0"}}
    tell_worker(stream.client, "infer@a", vitals)
    tell_worker(stream.client, "load@a", {"queues": ["load.live"]})
    assert not any("different labels" in each for each in look().problems)
    settings = {"settings": {"MC_SAMPLES": "20", "SEED": "0"}}
    tell_worker(stream.client, "infer@b", vitals | settings)
    (told,) = (each for each in look().problems if "different labels" in each)
    assert "by ASTRONN_STREAM_MC_SAMPLES: 100 (infer@a); 20 (infer@b)." in told


def test_reasons_of_one_kind_are_told_together(stream: Stream) -> None:
    stream.send()
    _, body = stream.take("load.bulk") or ("", {})
    message = LoadSpectra.model_validate(body)
    spectra, weights = message.spectra, message.weights
    reasons = [f"apStar-r6-{number}.fits is not a FITS file." for number in range(3)]
    for spectrum, reason in zip(spectra, [*reasons, "The disk is away."], strict=False):
        failures = failures_of([spectrum], reason)
        record_stage.no_result(NoResult(weights=weights, failures=failures), stream.process)
        time.sleep(0.002)
    late = failures_of(spectra[4:6], "The file system is away.")
    setback = Setback(weights=weights, failures=late, waiting=False)
    record_stage.setback(setback, stream.process)
    status = look()
    assert status.without_labels == 4
    assert [(each.number, each.reason) for each in status.failures] == [
        (3, "… is not a FITS file."),
        (1, "The disk is away."),
    ]
    assert status.failures[0].example == reasons[-1]
    assert [(each.number, each.reason) for each in status.setbacks] == [
        (2, "The file system is away.")
    ]


def test_inference_that_is_behind_is_told(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_INFER_BACKLOG", "2")
    get_settings.cache_clear()
    stream.client.lpush("infer.bulk", "{}")
    assert "Inference is behind: loaders of bulk pause." not in look().problems
    stream.client.lpush("infer.bulk", "{}")
    assert "Inference is behind: loaders of bulk pause." in look().problems


def test_a_look_goes_through_no_table(postgres_url: str) -> None:
    """Each query is answered by a part of an index, or by the tally."""
    statements: list[tuple[str, object]] = []
    with opened(postgres_url) as engine, engine.connect() as connection:

        def note(_: object, __: object, statement: str, values: object, *___: object) -> None:
            statements.append((statement, values))

        event.listen(engine, "before_cursor_execute", note)
        _look_at_jobs(connection, Status())
        event.remove(engine, "before_cursor_execute", note)
        connection.exec_driver_sql("SET enable_seqscan = off")  # the tables are empty
        connection.exec_driver_sql("SET enable_bitmapscan = off")
        assert len(statements) == 6
        for statement, values in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", values)  # type: ignore[arg-type]
            text = "\n".join(plan.scalars())
            partial = "ix_job_open" in text or "ix_astronn_unlabelled" in text
            queued = "Index Cond: (state = 'queued'" in text
            assert partial or queued or "Seq Scan on tally" in text, text


@pytest.mark.usefixtures("stream")
def test_the_form_for_machines_does_not_change_unnoticed() -> None:
    keys = """
        version problems redis redis_writes database dispatcher dispatcher_version weights
        weights_name open_by_weights queues marks
        taken set_aside jobs other_weights without_labels strangers spectra spectra_per_second
        eta_seconds oldest_live_seconds oldest_queued_seconds workers failures setbacks
    """
    found = json.loads(look().model_dump_json())
    assert list(found) == keys.split()
    assert found["version"] == 1
    assert list(Reason.model_fields) == ["reason", "number", "latest", "example"]
    assert list(Worker.model_fields) == [
        *("queues", "settings", "version", "wire", "weights", "device", "engine"),
        *("busy", "batch_size", "batch_wait"),
    ]
