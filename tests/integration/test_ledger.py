"""The ledger against a real Redis and a real database: what is lost is found, once."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

import producer.ledger.reconcile
from producer.ledger.chunks import load_messages
from producer.ledger.dispatcher import Dispatcher
from producer.ledger.reconcile import Reconciler
from producer.ledger.release import release
from tests.conftest import Inputs
from tests.integration.conftest import Clock, Stream
from worker.app import publish
from worker.database.session import transaction
from worker.database.tables import AstroNN, Job, JobState, now
from worker.errors import TransientError
from worker.identity import weights_sha256
from worker.messages import LoadSpectra, Setback, failures_of
from worker.settings import get_settings
from worker.stages import infer as infer_stage
from worker.stages import load as load_stage
from worker.stages import record as record_stage
from worker.transport.broker import Broker
from worker.transport.vitals import tell_worker

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    def set_variables(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"ASTRONN_STREAM_{name.upper()}", str(value))
        get_settings.cache_clear()

    return set_variables


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is nowhere is lost at the first look."""
    monkeypatch.setattr(producer.ledger.reconcile, "LOST_SECONDS", 0.0)


def take_all(stream: Stream, queue: str) -> list[LoadSpectra]:
    """The messages of a queue, the oldest first, which is empty then."""
    messages = []
    while taken := stream.take(queue):
        messages.append(LoadSpectra.model_validate(taken[1]))
    return messages


def queued(stream: Stream) -> list[LoadSpectra]:
    """The messages to loaders, which stay where they are."""
    contents = stream.client.lrange("load.bulk", 0, -1)
    messages = take_all(stream, "load.bulk")
    if contents:
        stream.client.rpush("load.bulk", *contents)
    return messages


def test_messages_of_all_stages_are_seen_on_their_way(stream: Stream) -> None:
    jobs = frozenset(stream.registered.jobs)
    stream.send()
    assert stream.broker.transit().queued == jobs
    for message in take_all(stream, "load.bulk"):
        load_stage.load(message, stream.process)
    assert stream.broker.transit().queued == jobs
    while taken := stream.take("infer.bulk"):
        infer_stage.infer_task(taken[1])
    assert stream.broker.transit().queued == jobs
    stream.drain()
    assert stream.broker.transit().queued == frozenset()


def test_a_message_that_a_worker_holds_is_seen(stream: Stream) -> None:
    stream.send(stream.registered.jobs[:1])
    hold(stream)
    transit = stream.broker.transit()
    assert transit.held == {stream.registered.jobs[0]}
    assert transit.queued == frozenset()


def wrapped(message: object) -> str:
    body = base64.b64encode(json.dumps([[message], {}, {}]).encode()).decode()
    return json.dumps({"headers": {"task": "load"}, "body": body})


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "no JSON",
        '{"headers": {"task": "load"}, "body": "?"}',
        wrapped(1),
        wrapped({"spectra": [{"job": [1]}]}),
        wrapped({"spectra": [1]}),
        wrapped({"spectra": [{"job": float("inf")}]}),
        wrapped({"spectra": []}).replace('"load"', '"load", "retries": 1e999'),
        '{"job": 1e999}',
        "[" * 100_000,
    ],
    ids=lambda content: content[:40],
)
def test_what_is_no_message_of_ours_is_passed_over(stream: Stream, content: str) -> None:
    stream.client.lpush("record", content)
    assert stream.broker.transit().queued == frozenset()


@pytest.mark.usefixtures("at_once")
def test_a_lost_message_is_sent_again_and_only_that(stream: Stream) -> None:
    stream.send()
    stream.client.lpop("load.bulk")
    (kept,) = queued(stream)
    assert stream.reconciler().reconcile() == 12 - len(kept.spectra)
    again = {job for job, state in stream.states().items() if state == JobState.WAITING}
    assert again.isdisjoint(each.job for each in kept.spectra)
    stream.send()
    # What went wrong once goes alone: a file a message.
    messages = [message for message in queued(stream) if message != kept]
    assert {each.job for message in messages for each in message.spectra} == again
    assert all(len({each.path for each in message.spectra}) == 1 for message in messages)
    stream.drain()
    assert len(stream.rows()) == 12
    assert all(teff is not None for teff, *_ in stream.rows().values())


def test_a_message_that_is_nowhere_for_a_moment_is_not_lost(stream: Stream) -> None:
    stream.send()
    reconciler = stream.reconciler()
    held_for_a_moment = stream.client.rpop("load.bulk")
    assert reconciler.reconcile() == 0
    stream.client.rpush("load.bulk", held_for_a_moment)
    assert reconciler.reconcile() == 0
    assert set(stream.states().values()) == {JobState.QUEUED}


def test_a_flushed_redis_costs_no_attempt(stream: Stream) -> None:
    stream.send()
    stream.client.flushall()
    assert stream.reconciler().reconcile() == 12
    assert stream.attempts() == {0}
    stream.send()
    stream.drain()
    assert len(stream.rows()) == 12


def test_two_stacks_leave_each_other_alone(stream: Stream) -> None:
    stream.send()
    stream.change_jobs(broker=":0123", deadline=now() + timedelta(seconds=60))
    here = Broker(stream.client, "redis://redis:6379/0")
    assert Reconciler(stream.engine, here, get_settings()).reconcile() == 0


def test_a_redis_that_was_seen_before_it_was_flushed_is_known_again(stream: Stream) -> None:
    here = Broker(stream.client, "redis://redis:6379/0")
    reconciler = Reconciler(stream.engine, here, get_settings())
    release(stream.engine, publish, get_settings(), here.name(), weights=stream.weights)
    assert reconciler.reconcile() == 0
    stream.client.flushall()
    assert reconciler.reconcile() == 12
    assert stream.attempts() == {0}


@pytest.mark.usefixtures("at_once")
def test_two_dispatchers_send_what_was_flushed_once(stream: Stream) -> None:
    stream.send()
    one, other = stream.reconciler(), stream.reconciler()
    seen = other._queued(None)
    stream.client.flushall()
    assert one.reconcile() == 12
    stream.send()
    other._put_back(seen, "Redis lost its message.", counted=False)
    assert set(stream.states().values()) == {JobState.QUEUED}


def test_another_redis_is_not_judged_before_the_deadline(stream: Stream) -> None:
    stream.change_jobs(
        state=JobState.QUEUED,
        broker="elsewhere:1",
        attempts=1,
        deadline=now() + timedelta(seconds=60),
    )
    assert stream.reconciler().reconcile() == 0
    stream.change_jobs(deadline=now() - timedelta(seconds=1))
    assert stream.reconciler().reconcile() == 12


def test_a_job_in_its_queue_may_wait_beyond_its_deadline(stream: Stream) -> None:
    stream.send()
    stream.change_jobs(deadline=now() - timedelta(seconds=1))
    assert stream.reconciler().reconcile() == 0


def hold(stream: Stream, **headers: object) -> None:
    """Let a worker have taken the oldest message to loaders, as kombu notes it."""
    content = json.loads(stream.client.rpop("load.bulk"))
    content["headers"] |= headers
    stream.client.hset("unacked", "tag", json.dumps([content, "exchange", "load.bulk"]))


def test_a_job_that_a_worker_holds_for_too_long_is_sent_again(
    stream: Stream, configure: Configure
) -> None:
    configure(job_seconds=1)
    stream.send()
    stream.change_jobs(deadline=now() - timedelta(hours=1))  # it waited long in its queue
    hold(stream)
    clock = Clock()
    reconciler = stream.reconciler(clock)
    assert reconciler.reconcile() == 0
    clock.moment += 1.1
    held = stream.broker.transit().held
    assert reconciler.reconcile() == len(held) > 0
    assert {job for job, state in stream.states().items() if state == JobState.WAITING} == held


def test_what_an_outage_took_does_not_count(stream: Stream, configure: Configure) -> None:
    configure(job_seconds=1)
    stream.send()
    hold(stream)
    clock = Clock()
    reconciler = stream.reconciler(clock)
    assert reconciler.reconcile() == 0
    clock.moment += 1.1
    reconciler.forget()
    assert reconciler.reconcile() == 0


def test_a_message_that_is_tried_again_is_not_held_for_too_long(
    stream: Stream, configure: Configure
) -> None:
    configure(job_seconds=1)
    stream.send()
    hold(stream, retries=3)
    clock = Clock()
    reconciler = stream.reconciler(clock)
    assert reconciler.reconcile() == 0
    clock.moment += 1.1
    assert reconciler.reconcile() == 0


def test_what_a_dead_worker_held_is_sent_again_at_once(stream: Stream) -> None:
    stream.send()
    hold(stream, retries=3)
    held = stream.broker.transit().held
    assert stream.reconciler().reconcile(held_are_lost=True) == len(held) > 0


@pytest.mark.usefixtures("at_once")
def test_after_its_attempts_a_job_ends_with_the_last_error(
    stream: Stream, configure: Configure
) -> None:
    configure(max_attempts=2)
    one, other = stream.registered.jobs[:2]
    for attempt in range(2):
        assert stream.send([one, other]) == 2
        stream.client.delete("load.bulk")
        if attempt == 0:
            (message,) = load_of(stream, [one])
            record_stage.setback(
                Setback(
                    weights=message.weights,
                    failures=failures_of(message.spectra, "The disk is away."),
                    waiting=False,
                ),
                stream.process,
            )
        assert stream.reconciler().reconcile() == 2
    assert stream.reasons() == {
        one: "Given up after 2 attempts. The disk is away.",
        other: "Given up after 2 attempts. Its message was lost.",
    }
    assert stream.reconciler().reconcile() == 0


def load_of(stream: Stream, jobs: list[int]) -> list[LoadSpectra]:
    with transaction(stream.engine) as session:
        return load_messages(session, jobs, chunk_size=32)


@pytest.mark.usefixtures("at_once")
def test_two_reconcilers_send_a_job_again_once(stream: Stream) -> None:
    stream.send()
    stream.client.delete("load.bulk")
    one, other = stream.reconciler(), stream.reconciler()
    assert one.reconcile() == 12
    stream.send()
    assert other.reconcile() == 0
    assert stream.attempts() == {2}


def test_a_backlog_is_released_while_there_is_room(stream: Stream, configure: Configure) -> None:
    configure(in_flight=5)
    assert stream.send() == 5
    assert stream.send() == 0
    stream.drain()
    assert stream.send() == 5
    stream.drain()
    assert stream.send() == 2


def test_dispatchers_side_by_side_send_no_more_than_there_is_room(
    stream: Stream, configure: Configure
) -> None:
    configure(in_flight=5)
    sent: list[int] = []
    dispatchers = [threading.Thread(target=lambda: sent.append(stream.send())) for _ in range(4)]
    for each in dispatchers:
        each.start()
    for each in dispatchers:
        each.join()
    assert sum(sent) == 5


def test_a_full_lane_does_not_hold_up_the_other(stream: Stream, configure: Configure) -> None:
    configure(in_flight=5)
    stream.send()
    with transaction(stream.engine) as session:
        last = session.get_one(Job, stream.registered.jobs[-1])
        last.lane = "live"
    assert stream.send() == 1
    assert stream.client.llen("load.live") == 1


def test_what_could_not_be_sent_stays_waiting(stream: Stream) -> None:
    def fail(_message: LoadSpectra) -> None:
        raise TransientError("away")

    with pytest.raises(TransientError):
        release(stream.engine, fail, get_settings(), "broker:1", weights=stream.weights)
    assert set(stream.states().values()) == {JobState.WAITING}


def test_jobs_of_different_weights_share_no_message(stream: Stream) -> None:
    with transaction(stream.engine) as session:
        session.get_one(Job, stream.registered.jobs[0]).weights_sha256 = "other"
    stream.send()
    assert {m.weights == "other": len(m.spectra) for m in queued(stream)}[True] == 1


def test_nothing_is_sent_that_every_inference_worker_would_send_back(stream: Stream) -> None:
    tell_worker(stream.client, "load@a", {"queues": ["load.bulk"]})
    tell_worker(stream.client, "infer@a", {"queues": ["infer.bulk"], "weights": ["0" * 64]})
    assert Dispatcher(stream.engine, stream.client, get_settings()).step()
    assert set(stream.states().values()) == {JobState.WAITING}
    tell_worker(stream.client, "infer@b", {"queues": ["infer.bulk"], "weights": [stream.weights]})
    assert Dispatcher(stream.engine, stream.client, get_settings()).step()
    assert set(stream.states().values()) == {JobState.QUEUED}


def test_a_dispatcher_feeds_its_own_stack_alone(stream: Stream) -> None:
    first, *rest = stream.registered.jobs
    with transaction(stream.engine) as session:
        session.get_one(Job, first).weights_sha256 = "of another stack"
    assert Dispatcher(stream.engine, stream.client, get_settings()).step()
    assert stream.states() == {first: JobState.WAITING} | dict.fromkeys(rest, JobState.QUEUED)


def test_nothing_is_sent_while_a_worker_knows_messages_of_another_version(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    tell_worker(stream.client, "load@a", {"queues": ["load.bulk"], "wire": "LoadSpectra-1"})
    dispatcher = Dispatcher(stream.engine, stream.client, get_settings())
    assert dispatcher.step()
    assert dispatcher.step()
    assert set(stream.states().values()) == {JobState.WAITING}
    assert caplog.text.count("another version of the software is at load@a") == 1
    tell_worker(stream.client, "load@a", {"queues": ["load.bulk"]})
    assert Dispatcher(stream.engine, stream.client, get_settings()).step()
    assert set(stream.states().values()) == {JobState.QUEUED}


def test_a_backlog_for_some_weights_does_not_keep_out_others_that_are_served(
    stream: Stream, inputs: Inputs, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(inputs.weights.read_bytes() + b"\0")
    theirs = stream.registered.jobs[-2:]
    with transaction(stream.engine) as session:
        for job in theirs:
            session.get_one(Job, job).weights_sha256 = weights_sha256(other)
    settings = get_settings().changed(also_models=str(other), in_flight=4)
    dispatcher = Dispatcher(stream.engine, stream.client, settings)
    sent: set[int] = set()
    for _ in range(2):
        assert dispatcher.step()
        sent |= {job for job, state in stream.states().items() if state == JobState.QUEUED}
        with transaction(stream.engine) as session:
            for job in sent:
                session.get_one(Job, job).state = JobState.DONE
    assert len(sent) == 8, "the others alone would fill the stream each time"
    assert sent > set(theirs)


def test_a_dispatcher_waits_for_a_database_and_says_so_once(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = Dispatcher(stream.engine, stream.client, get_settings())
    with stream.engine.execution_options(writes=True).begin() as connection:
        connection.execute(text("ALTER TABLE job RENAME TO gone"))
    assert [dispatcher.step(), dispatcher.step()] == [False, False]
    assert caplog.text.count("waiting") == 1
    assert "db upgrade" in caplog.text
    with stream.engine.execution_options(writes=True).begin() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO job"))
    assert dispatcher.step()
    assert caplog.text.count("goes on") == 1
    assert set(stream.states().values()) == {JobState.QUEUED}


def test_rows_that_the_database_refuses_end_with_its_error(stream: Stream) -> None:
    stream.send()
    refused = stream.registered.jobs[3]
    _refuse_labels_of(stream, refused)
    stream.drain()
    with stream.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(AstroNN)) == 12
    reasons = stream.reasons()
    assert "the observer said no" in (reasons.pop(refused) or "").replace("_", " ")
    assert set(reasons.values()) == {None}
    assert set(stream.states().values()) == {JobState.DONE}


def _refuse_labels_of(stream: Stream, job: int) -> None:
    """Let the database refuse a labelled row for its content, as a constraint would."""
    with stream.engine.execution_options(writes=True).begin() as connection:
        if stream.engine.dialect.name == "sqlite":
            statements = [
                "CREATE TRIGGER refuse BEFORE INSERT ON astronn "
                f"WHEN NEW.task_pk = {job} AND NEW.teff IS NOT NULL "
                "BEGIN SELECT RAISE(ABORT, 'the observer said no'); END"
            ]
        else:
            statements = [
                "ALTER TABLE astronn ADD CONSTRAINT the_observer_said_no "
                f"CHECK (task_pk <> {job} OR teff IS NULL)",
            ]
        for statement in statements:
            connection.execute(text(statement))
