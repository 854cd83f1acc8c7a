"""A survey of a million jobs through producer, ledger and record, on PostgreSQL; no file is read.

Catalogue rows of simulated stars are registered by the producer's own functions, the dispatcher and
the recorder are the real commands, Redis and PostgreSQL come from wheels. Loading and inference
are faked: a process takes the messages for loaders, waits as long as a spectrum would take, and
sends simulated labels. The ledger grows from size to size, and at each it is measured what a
spectrum costs at each stage and what questions to the ledger cost. Prints a line for each size.

    nice uv run --group dev -m benchmarks.scale [--jobs 10000 100000] [--delay 0.0002] [--json FILE]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from sqlalchemy import Engine, event, text

from benchmarks.chaos import PeakMemory
from benchmarks.rig.servers import PostgresServer, RedisServer, short_folder
from producer.ledger.reconcile import Reconciler
from producer.ledger.register import register_all
from producer.ledger.release import release
from producer.sources.files import CatalogueEntry
from worker.app import connect_to, publish
from worker.database.session import open_database, upgrade
from worker.database.tables import Kind
from worker.identity import COADD, natural_key, weights_sha256
from worker.labels import LABELS
from worker.local.stack import COMMANDS, DISPATCHER
from worker.messages import LoadSpectra, RecordLabels, SpectrumLabels
from worker.monitoring.status import read_status
from worker.queues import QUEUES
from worker.settings import Settings
from worker.starter.bundled import weights_name
from worker.transport.broker import Broker

#: Visits to a star on average, as in DR17.
VISITS = 3.6
ROUNDS = 5
STATUS = "statements of status"
TABLES = ("source", "spectrum", "job", "astronn")


@dataclass
class Measured:
    """What was found at one size; rates are spectra a second, costs milliseconds."""

    jobs: int
    register_rate: float
    release_rate: float
    stream_rate: float
    record_cpu_ms: float
    dispatch_cpu_ms: float
    database_cpu_ms: float
    redis_mib: float
    database_bytes: float
    waiting_ms: dict[str, float]
    done_ms: dict[str, float]
    slowest: dict[str, str]


# The simulated survey


def spectra(first: int, last: int) -> Iterator[CatalogueEntry]:
    """The spectra with these numbers: stars in a row, each with its coadd and its visits."""
    rng = np.random.default_rng(first)
    number = first
    while number < last:
        plates = range(number, number + 1 + rng.poisson(VISITS - 1))
        members = [COADD, *(f"apVisit-dr17-{plate}-57680-024.fits" for plate in plates)]
        obj = f"2M{number:08d}+0000000"
        path = f"dr17/stars/apo25m/{number % 1000:03d}+00/apStar-dr17-{obj}.fits"
        for member in members[: last - number]:
            yield CatalogueEntry(
                kind=Kind.COADD if member == COADD else Kind.VISIT,
                path=path,
                member=member,
                natural_key=natural_key(path, member),
                file_version="4321000-1700000000000000000",
                release="dr17",
                apred="dr17",
                telescope="apo25m",
                field=f"{number % 1000:03d}+00",
                obj=obj,
                ra=number % 360,
                dec=0.0,
                snr=100.0,
                spectrum_flags=0,
            )
        number += len(members)


def fake_stages(settings: Settings, delay: float) -> None:
    """Loading and inference, as far as the ledger can tell: labels come back after a while."""
    connect_to(settings)
    client = redis.Redis(unix_socket_path=settings.broker.split("://")[1].split("?")[0])
    queues = list(QUEUES["load"])
    values = tuple(np.random.default_rng(0).normal(size=len(LABELS)).tolist())
    while True:
        _, content = client.brpop(queues)
        (body, *_), *_ = json.loads(base64.b64decode(json.loads(content)["body"]))
        message = LoadSpectra.model_validate(body)
        time.sleep(delay * len(message.spectra))
        results = tuple(
            SpectrumLabels(
                **each.ticket,
                raw_labels=values,
                raw_e_labels=tuple(map(abs, values)),
                p_training=None,
                t_elapsed=delay,
                t_overhead=0.0,
            )
            for each in message.spectra
        )
        publish(
            RecordLabels(
                software="1", weights=message.weights, mc_samples=100, seed=0, results=results
            ),
            lane=message.lane,
        )


# What it costs


class Processes:
    """The dispatcher, the recorders and the fake of the rest, with the processor's time they take.

    A context; they run within it.
    """

    def __init__(self, settings: Settings, folder: Path, recorders: int, delay: float) -> None:
        self._settings = settings
        self._folder = folder
        self._commands = [DISPATCHER, *["record"] * recorders]
        self._fake = get_context("spawn").Process(target=fake_stages, args=(settings, delay))
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Processes:
        self._fake.start()
        for name in self._commands:
            executable, *arguments = COMMANDS[name]
            with (self._folder / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    [Path(sys.executable).parent / executable, *arguments],
                    env={**os.environ, **self._settings.environment()},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._running.append((name, process))
        return self

    def __exit__(self, *_: object) -> None:
        self._fake.terminate()
        self._fake.join()
        for _, process in self._running:
            process.send_signal(signal.SIGTERM)
        for _, process in self._running:
            process.wait(timeout=60)

    def seconds(self) -> dict[str, float]:
        """The processor's time of each kind of process, up to now."""
        taken = dict.fromkeys(self._commands, 0.0)
        for name, process in self._running:
            taken[name] += cpu_seconds(psutil.Process(process.pid))
        return taken


def cpu_seconds(process: psutil.Process) -> float:
    """The processor's time of a process and its children, those that have ended included."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        own = times.user + times.system + times.children_user + times.children_system
        return own + sum(map(cpu_seconds, process.children()))
    return 0.0


class Costs:
    """Times questions to the ledger, and notes the slowest statement of each."""

    def __init__(self) -> None:
        self._statements: list[tuple[float, str]] = []
        self.slowest: dict[str, str] = {}
        event.listen(Engine, "before_cursor_execute", self._begin)
        event.listen(Engine, "after_cursor_execute", self._end)

    def __call__(self, when: str, questions: dict[str, Callable[[], object]]) -> dict[str, float]:
        """The median milliseconds of each question."""
        return {name: self._cost(when, name, question) for name, question in questions.items()}

    def _cost(self, when: str, name: str, question: Callable[[], object]) -> float:
        self._statements.clear()
        taken = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            question()
            taken.append(time.perf_counter() - started)
        if self._statements:
            seconds, statement = max(self._statements)
            self.slowest[f"{name}, {when}"] = (
                f"{1000 * seconds:.1f} ms: {' '.join(statement.split())[:300]}"
            )
        if name == STATUS:  # it also waits for answers of workers, for a second
            return 1000 * sum(seconds for seconds, _ in self._statements) / ROUNDS
        return 1000 * statistics.median(taken)

    def _begin(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _end(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self._statements.append((time.perf_counter() - self._started, statement))


class Scale:
    """One stack with a ledger that grows."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments = folder, arguments
        self._redis, self._postgres = RedisServer(folder), PostgresServer(folder)
        self._redis.start()
        self.settings = Settings(
            broker_url=self._redis.url, database_url=self._postgres.url, data_root=folder
        )
        connect_to(self.settings)
        self._weights = weights_sha256(self.settings.weights_file)
        self._engine = open_database(self.settings.database_url)
        upgrade(self._engine)
        self._costs = Costs()
        self._broker = Broker(self._redis.client, self.settings.broker)
        self._server = psutil.Process(
            int((folder / "pgdata/postmaster.pid").read_text().split()[0])
        )

    def close(self) -> None:
        """Stop the servers."""
        self._engine.dispose()
        self._redis.kill()
        self._postgres.close()

    def grow(self, before: int, jobs: int) -> Measured:
        """Let the ledger grow from one size to another, all its jobs being done in the end."""
        new = jobs - before
        with PeakMemory(self._redis) as memory:
            registered = self._timed(lambda: self._register(before, jobs))
            waiting = self._costs("waiting", self._questions(jobs))
            sent, seconds = self._release()
            with Processes(
                self.settings, self._folder, self._arguments.recorders, self._arguments.delay
            ) as processes:
                some = self._done() + new // 10
                while (done := self._done()) < some:  # until all have started
                    time.sleep(1)
                server, taken = cpu_seconds(self._server), processes.seconds()
                streamed = self._timed(self._wait)
                new_done = self._done() - done
                taken = {name: now - taken[name] for name, now in processes.seconds().items()}
                server = cpu_seconds(self._server) - server
        return Measured(
            jobs=jobs,
            register_rate=new / registered,
            release_rate=sent / seconds,
            stream_rate=new_done / streamed,
            record_cpu_ms=1000 * taken["record"] / new_done,
            dispatch_cpu_ms=1000 * taken[DISPATCHER] / new_done,
            database_cpu_ms=1000 * server / new_done,
            redis_mib=memory.peak / 2**20,
            database_bytes=self._bytes() / jobs,
            waiting_ms=waiting,
            done_ms=self._costs("done", self._questions(jobs)),
            slowest=dict(self._costs.slowest),
        )

    def _timed(self, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    def _register(self, first: int, last: int) -> None:
        for _ in register_all(
            self._engine,
            spectra(first, last),
            weights=self._weights,
            weights_name=weights_name(self.settings.weights_file, self._weights),
            tag="",
            lane="bulk",
        ):
            pass

    def _release(self) -> tuple[int, float]:
        """What the dispatcher sends until the lane is full, and how long that takes."""
        started = time.perf_counter()
        name = self._broker.name()
        sent = release(self._engine, publish, self.settings, name, weights=self._weights)
        return sent, time.perf_counter() - started

    def _questions(self, jobs: int) -> dict[str, Callable[[], object]]:
        reconciler = Reconciler(self._engine, self._broker, self.settings)
        return {
            STATUS: lambda: read_status(self.settings),
            "reconcile": reconciler.reconcile,
            "dispatch, nothing to send": lambda: release(
                self._engine, publish, self.settings, "", weights="none"
            ),
            "enqueue 10 known": lambda: self._register(jobs - 10, jobs),
        }

    def _done(self) -> int:
        return self._number("SELECT count(*) FROM astronn")

    def _wait(self) -> None:
        """Wait until nothing is waiting or under way; asked so that it costs next to nothing."""
        while True:
            with self._engine.connect() as connection:
                connection.execute(text("SET LOCAL enable_seqscan = off"))
                states = text("SELECT 1 FROM job WHERE state IN ('waiting', 'queued') LIMIT 1")
                if connection.scalar(states) is None:
                    return
            time.sleep(0.5)

    def _bytes(self) -> int:
        return sum(self._number(f"SELECT pg_total_relation_size('{table}')") for table in TABLES)

    def _number(self, statement: str) -> int:
        with self._engine.connect() as connection:
            return int(connection.scalar(text(statement)) or 0)


def show(measured: Measured) -> None:
    """Print what was found at a size."""
    rates = (
        f"registered {measured.register_rate:.0f}/s, sent {measured.release_rate:.0f}/s, "
        f"sent and recorded {measured.stream_rate:.0f}/s"
    )
    cpu = (
        f"CPU a spectrum: dispatcher {measured.dispatch_cpu_ms:.2f} ms, recorder "
        f"{measured.record_cpu_ms:.2f} ms, PostgreSQL {measured.database_cpu_ms:.2f} ms"
    )
    room = (
        f"Redis at most {measured.redis_mib:.0f} MiB, "
        f"{measured.database_bytes:.0f} bytes a spectrum in the database"
    )
    print(f"{measured.jobs} jobs: {rates}; {cpu}; {room}")
    for when, costs in (("waiting", measured.waiting_ms), ("done", measured.done_ms)):
        print(f"    {when}: {', '.join(f'{name} {ms:.1f} ms' for name, ms in costs.items())}")
    for name, statement in measured.slowest.items():
        print(f"    slowest of {name}: {statement}")
    sys.stdout.flush()


def main() -> None:
    """Print the lines, and write the figures where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[10_000, 30_000])
    parser.add_argument("--delay", type=float, default=0.0002, help="seconds a spectrum")
    parser.add_argument("--recorders", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes, found = sorted(arguments.jobs), []
    with short_folder() as folder, contextlib.closing(Scale(folder, arguments)) as scale:
        for before, jobs in zip([0, *sizes], sizes, strict=False):
            found.append(scale.grow(before, jobs))
            show(found[-1])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()
