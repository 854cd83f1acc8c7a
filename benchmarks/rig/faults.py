"""Faults: each disturbs the work on all spectra under a tag and returns when that is done.

The acceptance tests run them with small numbers; ``benchmarks/chaos.py`` runs them in full.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import redis

from benchmarks.rig.servers import PostgresServer, RedisServer
from benchmarks.rig.stream import Stream
from benchmarks.rig.waiting import wait_for
from worker.identity import weights_sha256
from worker.queues import QUEUES, Stage
from worker.transport.broker import UNACKED


def kill_workers(
    stream: Stream, tag: str, count: int, name: str, *, times: int, in_flight: int
) -> None:
    """Kill -9 of one worker, again and again at random moments, each time while it works.

    Parameters
    ----------
    in_flight
        How many spectra are under way at most. With all of them every loader is done with its work
        before the first row is written.
    """
    chance = random.Random(f"{name} {times}")  # noqa: S311 - no secret
    with restarted_with(stream, "dispatcher", ASTRONN_STREAM_IN_FLIGHT=str(in_flight)):
        stream.enqueue(stream.files, tag=tag)
        for number in range(times):
            # Spread over the work: the next kill comes when a random further part of it is done.
            part = int(count * (number + chance.random()) / (times + 1))
            stream.wait(tag, part)
            freeze_at_work(stream, tag, count, name)
            stream.kill(name)
        stream.wait(tag, count)


def freeze_at_work(stream: Stream, tag: str, count: int, name: str) -> None:
    """Freeze a worker while it holds a message; the dispatcher never holds one."""
    queues = {*QUEUES.get(cast(Stage, name), ())}
    while queues:
        stream.tell(name, signal.SIGSTOP)
        held = cast(dict[bytes, bytes], stream.redis.client.hgetall(UNACKED))
        if any(json.loads(message)[2] in queues for message in held.values()):
            return
        stream.tell(name, signal.SIGCONT)
        assert stream.done(tag) < count, f"{name} was never caught at work"
        time.sleep(0.002)


def kill_redis(stream: Stream, tag: str, count: int) -> None:
    """Kill -9 of the redis-server in the middle; it comes back after two seconds."""
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, count // 3)
    with killed(stream.redis):
        time.sleep(2)
    stream.wait(tag, count)


@contextlib.contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    """A redis-server that is dead meanwhile."""
    server.kill()
    yield
    server.start()


def refuse(
    stream: Stream, tag: str, count: int, refusal: str, meanwhile: Callable[[], None]
) -> None:
    """A Redis that refuses in the middle, until something is done."""
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, count // 3)
    with REFUSALS[refusal](stream.redis):
        meanwhile()
    stream.wait(tag, count)


@contextlib.contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    """A master that was demoted."""
    server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    server.client.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def memory_full(server: RedisServer) -> Iterator[None]:
    """A Redis at its maxmemory that evicts nothing."""
    server.client.config_set("maxmemory", "1")
    yield
    server.client.config_set("maxmemory", "0")


@contextlib.contextmanager
def unsaved(server: RedisServer) -> Iterator[None]:
    """A Redis whose last snapshot failed, since a folder is where its file belongs."""
    taken = server.folder / server.client.config_get("dbfilename")["dbfilename"]
    taken.mkdir()
    server.client.config_set("save", "3600 1000")
    server.client.bgsave()
    wait_for(lambda: server.client.info()["rdb_last_bgsave_status"] == "err", "a failure", 10)
    yield
    server.client.config_set("save", "")
    taken.rmdir()


@contextlib.contextmanager
def other_password(server: RedisServer) -> Iterator[None]:
    """A Redis that wants a password which nobody was told."""
    server.client.config_set("requirepass", "changed")
    server.client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    yield
    with redis.Redis(unix_socket_path=str(server.socket), password="changed") as client:  # noqa: S106
        client.config_set("requirepass", "")


#: What a Redis that answers may refuse, by what the log says of it.
REFUSALS: dict[str, Callable[[RedisServer], contextlib.AbstractContextManager[None]]] = {
    "refuses writes: it is a read-only replica.": read_only,
    "refuses writes: its memory is full (maxmemory).": memory_full,
    "refuses writes: it cannot save its data to its disk (MISCONF).": unsaved,
    "refuses us: Authentication required.": other_password,
}


def flush_redis(stream: Stream, tag: str, count: int) -> None:
    """FLUSHALL in the middle."""
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, count // 3)
    stream.redis.client.flushall()
    stream.wait(tag, count)


def stop_database(stream: Stream, tag: str, count: int, *, seconds: float) -> None:
    """PostgreSQL stopped in the middle, as by a crash, and started some time later."""
    assert isinstance(stream.database, PostgresServer)
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, count // 3)
    stream.database.stop()
    time.sleep(seconds)
    stream.database.start()
    stream.engine.dispose()
    stream.wait(tag, count)


def change_weights(stream: Stream, tag: str, count: int, weights: Path) -> None:
    """New weights while the backlog of the old is under way, served side by side until it is done.

    Meanwhile live spectra are processed by the new ones, under a tag of their own.
    """
    before, live = dict(stream.environment), f"{tag} live"
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, count // 4)
    also = {"ALSO_MODELS": before["ASTRONN_STREAM_MODEL"], "MODEL": str(weights)}
    try:
        stream.environment |= {f"ASTRONN_STREAM_{name}": value for name, value in also.items()}
        stream.start_anew("dispatcher", "infer")
        stream.enqueue(stream.files / "0", "--lane", "live", tag=live)
        jobs = stream.number("SELECT count(*) FROM job WHERE tag = :tag", tag=live)
        stream.wait(live, jobs)
        stream.wait(tag, count)
    finally:
        stream.environment = before
        stream.start_anew("dispatcher", "infer")
    assert set(stream.table(live)["weights_sha256"]) == {weights_sha256(weights)}
    assert stream.attempts(tag) == stream.attempts(live) == 1


def deliver_twice_in_reverse(stream: Stream, tag: str, count: int) -> None:
    """Each stage gets all its messages twice and in reversed order."""
    stages = ("load", "infer", "record")
    for stage in stages:
        stream.stop(stage)
    # What a worker held that an earlier fault has killed would stay noted as held for minutes.
    stream.redis.client.delete(UNACKED, f"{UNACKED}_index")
    stream.enqueue_and_send(tag)
    for stage, queue, following in [
        ("load", "load.bulk", "infer.bulk"),
        ("infer", "infer.bulk", "record"),
        ("record", "record", ""),
    ]:
        messages = stream.redis.client.lrange(queue, 0, -1)
        stream.redis.client.delete(queue)
        stream.redis.client.rpush(queue, *[*reversed(messages)] * 2)
        before = stream.redis.client.llen(following) if following else 0
        stream.start(stage)
        wait_for(lambda queue=queue: _is_served(stream, queue), f"the queue {queue}", 240)  # type: ignore[misc]
        assert not following or stream.redis.client.llen(following) > before
    stream.wait(tag, count)


def _is_served(stream: Stream, queue: str) -> bool:
    client = stream.redis.client
    return client.llen(queue) == 0 and client.hlen("unacked") == 0


def _spectra_in(stream: Stream, queue: str) -> int:
    """The spectra that wait in a queue, each once."""
    messages = [json.loads(each) for each in stream.redis.client.lrange(queue, 0, -1)]
    bodies = [json.loads(base64.b64decode(each["body"])) for each in messages]
    return len({spectrum["job"] for body in bodies for spectrum in body[0][0]["spectra"]})


def expire_arrays(stream: Stream, tag: str, count: int) -> None:
    """All flux is gone before inference."""
    stream.stop("infer")
    stream.enqueue_and_send(tag)
    # What a worker held that an earlier fault has killed may still be noted as held.
    wait_for(lambda: _spectra_in(stream, "infer.bulk") == count, "all flux")
    with redis.Redis(unix_socket_path=str(stream.redis.socket), db=1) as arrays:
        keys = arrays.keys("astronn-stream:flux:*")
        assert keys
        arrays.delete(*keys)
    stream.start("infer")
    stream.wait(tag, count)


#: Makes a loader crash as it opens a file that is called poison.
POISON = """
import os, pathlib, sys
_open = pathlib.Path.open
def open(self, *arguments, **options):
    if "poison" in self.name and "load" in sys.argv:
        os.abort()
    return _open(self, *arguments, **options)
pathlib.Path.open = open
"""
#: Ends the device's thread at its first batch, once.
DYING_DEVICE = """
import numpy, pathlib, threading
_mark, _stack = pathlib.Path(__file__).with_name("died"), numpy.stack
def stack(*arguments, **options):
    if threading.current_thread().name == "device" and not _mark.exists():
        _mark.touch()
        raise SystemExit("the device is gone")
    return _stack(*arguments, **options)
numpy.stack = stack
"""


@contextlib.contextmanager
def hooked(stream: Stream, name: str, hook: str) -> Iterator[None]:
    """A worker whose Python runs a hook when it starts."""
    folder = stream.folder / f"hook-{name}"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(hook)
    with restarted_with(stream, name, PYTHONPATH=str(folder)):
        yield


@contextlib.contextmanager
def restarted_with(stream: Stream, name: str, **environment: str) -> Iterator[None]:
    """A worker with other settings, meanwhile."""
    stream.environment |= environment
    stream.kill(name)
    try:
        yield
    finally:
        for key in environment:
            del stream.environment[key]
        stream.kill(name)


@contextlib.contextmanager
def poison(stream: Stream) -> Iterator[Path]:
    """A file among the others whose reading crashes the process."""
    good = min(stream.files.rglob("*.fits"))
    bad = good.with_name("apStar-r6-2Mpoison.fits")
    shutil.copyfile(good, bad)
    try:
        with hooked(stream, "load", POISON):
            yield bad
    finally:
        bad.unlink()


Fault = Callable[[Stream, str, int], Any]
