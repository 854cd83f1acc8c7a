"""Workers answer questions by way of Redis and take no commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.worker.control import Panel

from benchmarks.rig.stream import Stream, stream_on_sqlite
from benchmarks.rig.waiting import wait_for
from worker.queues import QUEUES
from worker.stages.remote_control import ANSWERED

_ARGUMENTS = {
    "add_consumer": {"queue": "foreign"},
    "cancel_consumer": {"queue": "record"},
    "rate_limit": {"task_name": "record", "rate_limit": "1/h"},
    "revoke": {"task_id": "a-task"},
    "hello": {"from_node": "other", "revoked": {"a-task": 1}},
}


@pytest.fixture(scope="module")
def stream(simulated_folder: Path, demonstration_weights: Path) -> Iterator[Stream]:
    environment = {
        "ASTRONN_STREAM_MODEL": str(demonstration_weights),
        "ASTRONN_STREAM_MC_SAMPLES": "4",
    }
    with stream_on_sqlite(environment, simulated_folder) as stream:
        yield stream


def test_workers_refuse_every_command_and_go_on(stream: Stream) -> None:
    celery = Celery(broker=stream.redis.url)
    inspect = celery.control.inspect(timeout=5, limit=4)
    wait_for(lambda: len(inspect.ping() or {}) == 4, "four workers", 60)
    before = stream.running()
    commands = set(Panel.data) - ANSWERED
    assert {
        *_ARGUMENTS,
        "shutdown",
        "terminate",
        "pool_restart",
        "time_limit",
        "disable_events",
    } <= commands
    for command in sorted(commands):
        answers = celery.control.broadcast(
            command, arguments=_ARGUMENTS.get(command), reply=True, timeout=5, limit=4
        )
        told = [answer["error"] for each in answers for answer in each.values()]
        assert told == [f"Workers of astronn-stream do not take the command {command}."] * 4
    assert stream.running() == before
    assert not any((inspect.revoked() or {}).values())
    served = {queue["name"] for queues in inspect.active_queues().values() for queue in queues}
    assert served == {name for queues in QUEUES.values() for name in queues}
    assert "action=refuse_command command=shutdown" in stream.log("record").read_text()
    stream.enqueue(stream.files, tag="after")
    stream.wait("after", stream.number("SELECT count(*) FROM job"))
