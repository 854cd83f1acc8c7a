"""Whatever lies in a queue: no worker ends of it, and what is good behind it is served."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rig.stream import Stream, stream_on_sqlite
from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import EXECUTABLE
from worker.messages import InferSpectra, LoadSpectra, Message, NoResult, SpectrumReference
from worker.monitoring.status import Status
from worker.queues import QUEUES

_SPECTRUM = SpectrumReference(
    job=1, spectrum=1, file_version="v", path="p.fits", member="", snr=None, mask_key=""
)
_TASKS: dict[str, tuple[str, Message]] = {
    "load.live": ("load", LoadSpectra(lane="live", weights="w", spectra=(_SPECTRUM,))),
    "load.bulk": ("load", LoadSpectra(lane="bulk", weights="w", spectra=(_SPECTRUM,))),
    "infer.bulk": (
        "infer",
        InferSpectra(lane="bulk", weights="w", array="a", load_seconds=1, spectra=(_SPECTRUM,)),
    ),
    "record": ("no_result", NoResult(weights="w", failures=())),
}
_GZIP = gzip.compress(bytes(50_000_000))


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.open, (str(self.path), os.O_CREAT)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "touched"


@pytest.fixture(scope="module")
def stream(simulated_folder: Path, demonstration_weights: Path) -> Iterator[Stream]:
    environment = {
        "ASTRONN_STREAM_MODEL": str(demonstration_weights),
        "ASTRONN_STREAM_MC_SAMPLES": "4",
    }
    with stream_on_sqlite(environment, simulated_folder) as stream:
        yield stream


def wrapped(queue: str, body: str | bytes | None = None, **parts: Any) -> dict[str, Any]:
    """A good message to a queue as it lies in Redis, or one with another body or other parts."""
    task, message = _TASKS[queue]
    if body is None:
        body = call(message.model_dump(mode="json"))
    content = body if isinstance(body, bytes) else body.encode()
    good = {
        "body": base64.b64encode(content).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": "an-id", "retries": 0},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": base64.b64encode(os.urandom(6)).decode(),
            "body_encoding": "base64",
        },
    }
    return good | parts


def call(message: object) -> str:
    """The body of a message that calls a task."""
    return json.dumps([[message], {}, {"callbacks": None}])


def with_headers(queue: str, **headers: Any) -> dict[str, Any]:
    good = wrapped(queue)
    return good | {"headers": good["headers"] | headers}


def without(queue: str, *names: str) -> dict[str, Any]:
    """A message that lacks something, which names lead to."""
    message = wrapped(queue)
    part = message
    for name in names[:-1]:
        part = part[name]
    del part[names[-1]]
    return message


def hostile(queue: str, canary: Path) -> list[bytes]:
    """What others may have put into a queue."""
    evil = pickle.dumps([[Touch(canary)], {}, {}])
    yaml = f"!!python/object/apply:os.open ['{canary}', {os.O_CREAT}]".encode()
    message = _TASKS[queue][1].model_dump(mode="json")
    part = next(name for name in ("spectra", "failures") if name in message)
    bodies = [
        *(evil, _GZIP, b"[" * 100_000, b"7", b"null", b"{}", b"[]", b'"text"', b"\xff"),
        *(
            "[[], {}, {}]",
            "[[1e999], {}, {}]",
            "[[NaN], {}, {}]",
            '["", {}, {}]',
            "[[{}], [1], {}]",
        ),
        call(message).replace(f'"{part}"', '"rows": 1e999, "x"'),
        call({**message, part: [{**_SPECTRUM.ticket, "job": 10**30}]}),
        call({**message, "unknown": 1}),
        call({**message, part: 7}),
        json.dumps([[message], {"more": 1}, {}]),
        json.dumps([[message], {}, {"callbacks": [{"task": "load"}]}]),
    ]
    headers: list[dict[str, Any]] = [
        *(
            {"task": name}
            for name in ("os.system", "", None, 7, ["load"], "celery.backend_cleanup")
        ),
        *({"id": value} for value in (None, 7, {}, "a\nCRITICAL: forged", "a" * 1000)),
        *({"retries": value} for value in ("text", None, -1, 1.5, 10**30, [])),
        *({"timelimit": value} for value in (["a", "b"], [[], {}], 7, "ab", [-1, 0], [1], [None])),
        *({"eta": value} for value in ("soon", 7, {}, "9999-12-31T00:00:00+00:00", "\ud800")),
        *({"eta": value} for value in ("0001-01-01T00:00:00+23:59", "2026-01-01T00:00:00")),
        *({"expires": value} for value in ("soon", 7, {}, 1e300)),
        *({"compression": value} for value in ("gzip", "application/x-bz2", 7)),
        *({"lang": None}, {"shadow": "a\nCRITICAL"}, {"root_id": 7}, {"argsrepr": 7}),
    ]
    envelopes: list[dict[str, Any]] = [
        *(wrapped(queue, body) for body in bodies),
        *(with_headers(queue, **each) for each in headers),
        wrapped(queue, _GZIP, headers=with_headers(queue, compression="gzip")["headers"]),
        wrapped(queue, evil, **{"content-type": "application/x-python-serialize"}),
        wrapped(queue, evil, **{"content-type": "application/data"}),
        wrapped(queue, yaml, **{"content-type": "application/x-yaml"}),
        wrapped(queue, b"\x93\x90\x80\x80", **{"content-type": "application/x-msgpack"}),
        *(wrapped(queue, **{"content-encoding": each}) for each in (None, 7, "gzip", "utf-7")),
        *(wrapped(queue) | {"body": body} for body in ("no base64!", "é", None, 7, {}, "")),
        *(wrapped(queue, properties=each) for each in (None, {}, [], 7)),
        *(wrapped(queue, headers=each) for each in (None, {}, [], 7)),
        *(without(queue, name) for name in ("body", "properties", "headers", "content-type")),
        *(without(queue, "properties", name) for name in ("delivery_tag", "delivery_info")),
        *(without(queue, "headers", name) for name in ("id", "task")),
    ]
    plain = (b"hello", b"null", b"\xff\xfe\0", b"", b"7", b"{}", b"[]", b'"text"', b"[" * 100_000)
    numbers = (b'{"job": 1e999}', b'{"job": NaN}', b'{"properties": 1e999}')
    return [*plain, *numbers, bytes(33 * 2**20), *(json.dumps(e).encode() for e in envelopes)]


def test_what_is_no_message_is_set_aside_and_good_ones_are_served(
    stream: Stream, canary: Path
) -> None:
    client = stream.redis.client
    wait_for(lambda: len(look(stream).workers) == 4, "the workers")
    number = 0
    for queue in _TASKS:
        for content in hostile(queue, canary):
            client.lpush(queue, content)
            number += 1
    stream.enqueue(stream.files, tag="behind")
    stream.wait("behind", 12)
    queues = [queue for queues in QUEUES.values() for queue in queues]
    wait_for(lambda: not client.exists(*queues, "unacked"), "the queues to be empty")
    assert not canary.exists()
    status = look(stream)
    assert status.set_aside == number
    assert [each for each in status.problems if f": {number} (" in each]
    assert stream.ends == []
    logs = [stream.log(name).read_text() for name in ("load", "load-live", "infer", "record")]
    lines = [line for log in logs for line in log.splitlines() if "action=set_aside" in line]
    assert len(lines) == number
    assert not [line for log in logs for line in log.splitlines() if line.startswith("CRITICAL")]
    assert "Traceback" not in "".join(logs)


def test_what_was_set_aside_is_shown_and_forgotten(stream: Stream) -> None:
    number = look(stream).set_aside
    stream.redis.client.lpush("record", b"\x1b[31mhello\ninfo: all is well")
    wait_for(lambda: look(stream).set_aside == number + 1, "it to be set aside")
    newest, beginning, *_ = command(stream, "status", "--set-aside").splitlines()
    assert re.fullmatch(r"\S+ record, 28 bytes: Invalid JSON: .*", newest)
    assert beginning.strip() == "?[31mhello?info: all is well"
    command(stream, "status", "--forget")
    assert look(stream).set_aside == 0
    assert not [each for each in look(stream).problems if "set aside" in each]


def test_no_more_is_kept_than_a_thousand_beginnings(stream: Stream) -> None:
    before = stream.redis.memory()
    for _ in range(1100):
        stream.redis.client.lpush("record", b"x" * 20_000)
    wait_for(lambda: not stream.redis.client.exists("record"), "the queue to be empty")
    wait_for(lambda: look(stream).set_aside == 1000, "the newest")
    assert stream.redis.memory() - before < 4e6


def test_a_version_that_is_not_ours_is_no_damage(stream: Stream) -> None:
    command(stream, "status", "--forget")
    message = {**_TASKS["record"][1].model_dump(mode="json"), "version": 99}
    stream.redis.client.lpush("record", json.dumps(wrapped("record", call(message))))
    told = "sent back: a message of another version"
    wait_for(lambda: told in stream.log("record").read_text(), "the task")
    assert look(stream).set_aside == 0


def look(stream: Stream) -> Status:
    return Status.model_validate_json(command(stream, "status", "--json"))


def command(stream: Stream, *arguments: str) -> str:
    done = subprocess.run(
        [EXECUTABLE, *arguments],
        env=stream.environment,
        cwd=stream.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_connection_that_is_lost_is_one_line(stream: Stream) -> None:
    wait_for(lambda: len(look(stream).workers) == 4, "the workers")
    names = ("load", "load-live", "infer", "record")
    stream.redis.kill()
    lost = "action=worker: waiting: Redis does not answer"
    logs = {name: stream.log(name) for name in names}
    wait_for(lambda: all(lost in log.read_text() for log in logs.values()), "the workers to see it")
    stream.redis.start()
    wait_for(lambda: len(look(stream).workers) == 4, "the workers")
    for log in logs.values():
        assert log.read_text().count(lost) == 1
        assert "CPendingDeprecationWarning" not in log.read_text()
    assert stream.ends == []
