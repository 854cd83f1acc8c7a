"""What a task does with its message when the function fails: nothing is lost."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.exceptions import Reject, Retry

from tests.integration.conftest import Stream
from worker.database.session import transaction
from worker.database.tables import Job, JobState
from worker.errors import BusyError, FatalError, TransientError, YieldError
from worker.settings import get_settings
from worker.stages import load as load_stage
from worker.transport import patience
from worker.transport.broker import Broker
from worker.transport.envelope import unwrapped

LoadError = Callable[[Exception], None]


@pytest.fixture
def taken(stream: Stream) -> dict[str, Any]:
    """A message as a loader takes it off its queue."""
    stream.send()
    _, message = stream.take("load.bulk") or ("", {})
    stream.client.delete("load.bulk")
    return message


@pytest.fixture
def fails_with(monkeypatch: pytest.MonkeyPatch) -> LoadError:
    def let_fail(error: Exception) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(load_stage, "load_spectra", fail)

    return let_fail


@contextmanager
def served(message: dict[str, Any], retries: int = 0) -> Iterator[Any]:
    """The task as a worker runs it, for the so-manieth time."""
    task = load_stage.load_task
    task.push_request(
        args=[message],
        kwargs={},
        id="an-id",
        retries=retries,
        called_directly=False,
        argsrepr="(2 spectra: 1, 2)",
        hostname="load@here",
        delivery_info={"routing_key": "load.bulk", "exchange": ""},
    )
    try:
        yield task
    finally:
        task.pop_request()


def test_a_message_of_another_version_lets_its_jobs_wait_and_costs_nothing(
    stream: Stream, taken: dict[str, Any]
) -> None:
    newer = {**taken, "version": 99, "unheard_of": True}
    with served(newer) as task:
        assert "another version" in task.run(newer)
    (again,) = stream.queued("record")
    assert again["headers"]["task"] == "unread"
    assert Broker(stream.client, get_settings().broker).transit().queued == {
        each["job"] for each in taken["spectra"]
    }, "they are not lost meanwhile"
    stream.drain()
    with transaction(stream.engine) as session:
        for each in taken["spectra"]:
            job = session.get_one(Job, each["job"])
            assert (job.state, job.attempts) == (JobState.WAITING, 0)


@pytest.mark.parametrize(
    "error", [TransientError("away"), BusyError("behind"), MemoryError()], ids=repr
)
def test_what_may_pass_is_tried_again_without_end(
    stream: Stream, taken: dict[str, Any], fails_with: LoadError, error: Exception
) -> None:
    fails_with(error)
    for retries in (0, 3, 1000):
        with served(taken, retries) as task, pytest.raises(Retry):
            task.run(taken)
        (again,) = stream.queued("load.bulk")
        assert stream.message_of(again) == taken
        assert json.loads(unwrapped(json.dumps(again).encode()))["body"] == again["body"]
        assert again["headers"]["retries"] == retries + 1
        assert again["headers"]["argsrepr"] == "(2 spectra: 1, 2)"
        stream.client.delete("load.bulk")


@pytest.mark.parametrize(
    ("error", "told"),
    [(TransientError("The disk is away."), {"The disk is away."}), (BusyError("behind"), set())],
    ids=repr,
)
def test_what_keeps_a_message_is_told_to_the_ledger_once(
    stream: Stream, taken: dict[str, Any], fails_with: LoadError, error: Exception, told: set[str]
) -> None:
    fails_with(error)
    for retries in range(20):
        with served(taken, retries) as task, pytest.raises(Retry):
            task.run(taken)
    messages = stream.queued("record")
    assert len(messages) == len(told)
    assert {f["reason"] for m in messages for f in stream.message_of(m)["failures"]} == told


@pytest.mark.parametrize(("lane", "queue"), [("live", "record.live"), ("bulk", "record")])
def test_what_befalls_a_live_message_is_recorded_ahead_of_the_bulk(
    stream: Stream, taken: dict[str, Any], fails_with: LoadError, lane: str, queue: str
) -> None:
    message = {**taken, "lane": lane}
    fails_with(TransientError("The disk is away."))
    for retries in range(20):
        with served(message, retries) as task, pytest.raises(Retry):
            task.run(message)
    fails_with(ValueError("a surprise"))
    with served(message) as task, pytest.raises(ValueError, match="a surprise"):
        task.run(message)
    assert {each["headers"]["task"] for each in stream.queued(queue)} == {"setback", "no_result"}


def test_a_message_that_redis_does_not_take_again_goes_back_once_its_worker_stops(
    stream: Stream,
    taken: dict[str, Any],
    fails_with: LoadError,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails_with(TransientError("away"))
    monkeypatch.setattr(patience, "_PAGE", bytearray(2))
    told = threading.Timer(1.0, patience.stop_waiting)
    stream.client.config_set("maxmemory", "1")
    try:
        told.start()
        with served(taken) as task, pytest.raises(Reject) as refused:
            task.run(taken)
    finally:
        stream.client.config_set("maxmemory", "0")
        told.join()
    assert patience.is_stopping()
    assert refused.value.requeue


@pytest.mark.parametrize("error", [FatalError("no device"), YieldError("live first")], ids=repr)
def test_a_worker_that_cannot_serve_a_message_gives_it_back(
    taken: dict[str, Any],
    fails_with: LoadError,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    fails_with(error)
    stopped: list[int] = []
    monkeypatch.setattr(patience, "_PAGE", bytearray(2))
    before = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    try:
        with served(taken) as task, pytest.raises(Reject) as back:
            task.run(taken)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert back.value.requeue
    assert bool(stopped) == patience.has_failed() == isinstance(error, FatalError)
