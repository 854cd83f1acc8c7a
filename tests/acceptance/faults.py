"""A stream of real processes that a test may kill, stop and starve, and what must then hold.

The acceptance tests run it with small numbers; ``benchmarks/chaos.py`` runs it in full.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import redis
from astropy.table import Table
from sqlalchemy import Engine, text

from tests.acceptance.command import CHANGING
from tests.acceptance.servers import PostgresServer, RedisServer, SqliteFile
from tests.conftest import wait_for
from worker.database.session import open_database, upgrade
from worker.local.stack import COMMANDS
from worker.queues import QUEUES, Stage
from worker.results.read import read_table
from worker.transport.broker import UNACKED

WORKERS = ("load", "load-live", "infer", "record", "dispatcher")
#: Numbers of another database, and the name under which the results were made.
_OF_THE_DATABASE = {"task_pk", "spectrum_pk", "source_pk", "tag"}


def copies(files: Path, folder: Path, spectra: int, per_round: int = 44) -> int:
    """Fill a folder with real files under new names until there are so many spectra.

    Each name gives other dropout masks, so each copy has labels of its own. Returns their number.
    """
    first = folder / "0"
    first.mkdir(parents=True)
    for file in sorted(files.glob("*.fits")):
        shutil.copyfile(file, first / file.name)
    rounds = -(-spectra // per_round)
    for number in range(1, rounds):
        part = folder / str(number)
        part.mkdir()
        for file in first.iterdir():
            os.link(file, part / file.name.replace("2M", f"c{number}x2M"))
    return rounds * per_round


class Stream:
    """The processes of a stream, each started again when it dies, as a supervisor would.

    Parameters
    ----------
    files
        The folder of spectra, which is also the data root.
    """

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        database: SqliteFile | PostgresServer,
        environment: dict[str, str],
        files: Path,
    ) -> None:
        self.folder = folder
        self.redis = server
        self.database = database
        self.files = files
        self.engine: Engine = open_database(database.url)
        self.environment = {
            **os.environ,
            **environment,
            "ASTRONN_STREAM_BROKER_URL": server.url,
            "ASTRONN_STREAM_DATABASE_URL": database.url,
            "ASTRONN_STREAM_DATA_ROOT": str(files),
            "TMPDIR": str(folder),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self.restarts = 0

    def __enter__(self) -> Self:
        upgrade(self.engine)
        self.redis.start()
        self.start(*WORKERS)
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._supervisor.join()
        for name in list(self._processes):
            self.kill(name, again=False)
        self.redis.kill()
        self.engine.dispose()
        self.database.close()

    def start(self, *names: str) -> None:
        """Start workers, as docker-compose would."""
        for name in names:
            executable, *arguments = COMMANDS[name]
            with self._lock, self.log(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [str(Path(sys.executable).parent / executable), *arguments],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def kill(self, name: str, *, again: bool = True) -> None:
        """kill -9 of a worker with all its processes."""
        with self._lock:
            process = self._processes.pop(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if again:
                self.start(name)

    def tell(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker and all its processes."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[name].pid, number)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Ask a worker to stop, frozen or not; its exit status. It stays down until started."""
        with self._lock:
            process = self._processes.pop(name)
        process.send_signal(number)
        os.killpg(process.pid, signal.SIGCONT)
        return process.wait(timeout=seconds)

    def running(self) -> set[str]:
        """The workers that are meant to run."""
        return set(self._processes)

    def _supervise(self) -> None:
        while not self._closed.wait(0.2):
            with self._lock:
                dead = [name for name, each in self._processes.items() if each.poll() is not None]
                self.restarts += len(dead)
                self.start(*dead)

    def enqueue(self, *arguments: object, tag: str) -> str:
        """`astronn-stream enqueue`; what it printed."""
        command = [Path(sys.executable).parent / "astronn-stream", "enqueue", *arguments]
        done = subprocess.run(
            [str(part) for part in [*command, "--tag", tag]],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def number(self, query: str, **values: object) -> int:
        """A number out of the database."""
        with self.engine.connect() as connection:
            return int(connection.scalar(text(query), values) or 0)

    def done(self, tag: str) -> int:
        """The jobs under a tag that have their row."""
        return self.number("SELECT count(*) FROM job WHERE state = 'done' AND tag = :tag", tag=tag)

    def enqueue_and_send(self, tag: str) -> None:
        """Enqueue all files, and wait until the dispatcher has sent all of them."""
        self.enqueue(self.files, tag=tag)
        waiting = "SELECT count(*) FROM job WHERE state = 'waiting' AND tag = :tag"
        wait_for(lambda: self.number(waiting, tag=tag) == 0, "the dispatcher to send")

    def wait(self, tag: str, count: int, seconds: float = 240) -> None:
        """Wait until so many jobs under a tag are done."""
        wait_for(lambda: self.done(tag) >= count, f"{count} jobs of {tag!r}", seconds)

    def table(self, tag: str) -> Table:
        """The rows under a tag, in the order of their files."""
        return _sorted(read_table(self.engine, tag=tag))

    def attempts(self, tag: str) -> int:
        """The most attempts that a job under a tag took."""
        return self.number("SELECT max(attempts) FROM job WHERE tag = :tag", tag=tag)


def undisturbed(files: Path, folder: Path, environment: dict[str, str]) -> Table:
    """The rows of a serial run, in the order of their files."""
    folder.mkdir(parents=True)
    command = [Path(sys.executable).parent / "astronn-stream", "run", files, "--serial"]
    subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment, "ASTRONN_STREAM_DATA_ROOT": str(files)},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    engine = open_database(f"sqlite:///{folder / 'astronn-stream.sqlite'}")
    try:
        return _sorted(read_table(engine))
    finally:
        engine.dispose()


def _sorted(table: Table) -> Table:
    table.sort(["path", "member"])
    return table


def assert_undisturbed(table: Table, reference: Table) -> None:
    """One row for each job, equal to those of an undisturbed run to the last bit."""
    assert len(table) == len(reference), f"{len(table)} rows, not {len(reference)}"
    for name in set(reference.colnames) - CHANGING - _OF_THE_DATABASE:
        left, right = (np.ma.filled(each[name]) for each in (table, reference))
        same = np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        assert same, f"{name} differs: {[*table['no_result_reason'][left != right][:3]]}"


# The faults. Each disturbs the work on all spectra under a tag and returns when that is done.


def kill_workers(
    stream: Stream, tag: str, count: int, name: str, *, times: int, in_flight: int
) -> None:
    """kill -9 of one worker, again and again at random moments, each time while it works.

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
    """kill -9 of the redis-server in the middle; it comes back after two seconds."""
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, count // 3)
    stream.redis.kill()
    time.sleep(2)
    stream.redis.start()
    stream.wait(tag, count)


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
