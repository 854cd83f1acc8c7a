"""A simulated night: files arrive in a watched folder while a backlog is processed in bulk.

Lets `enqueue` register a backlog, `watch` follow a folder and `simulate --live` write the night
into it, with Flower before the stack. Tells for each version of each spectrum how long it took
from its last byte to its row and where that time went; then waits for the backlog and compares
what Flower counted with the ledger. With ``--backlog 0`` the system is idle.

    uv run --group dev -m benchmarks.night [--minutes 5] [--rate 60] [--backlog 200000]
        [--model WEIGHTS]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from sqlalchemy import text

from benchmarks.rig.flower import Flower, flower_before
from benchmarks.rig.servers import PostgresServer, RedisServer, short_folder
from benchmarks.rig.stream import Stream, copies
from benchmarks.rig.waiting import wait_for
from producer.simulation.truth import NAME
from worker.app import app
from worker.queues import QUEUES
from worker.starter.bundled import DEMONSTRATION, weights_path
from worker.transport.broker import UNACKED

EXECUTABLE = Path(sys.executable).parent / "astronn-stream"
#: What every change of a live job is written to, as rows are replaced during the night.
LOG = """
CREATE TABLE night (spectrum bigint, version text, state text, moment double precision);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO night VALUES
        (NEW.spectrum_pk, NEW.file_version, NEW.state, extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OF state, file_version ON job
    FOR EACH ROW WHEN (NEW.lane = 'live') EXECUTE FUNCTION note();
"""
OPEN_JOBS = "SELECT count(*) FROM job WHERE state != 'done'"
LIVE_JOBS = f"{OPEN_JOBS} AND lane = 'live'"
#: The steps from a file's last byte to its row, each with the event at its end.
STEPS = (
    "notice, settle, register",
    "dispatch",
    "wait for a loader",
    "load",
    "wait for inference",
    "infer",
    "wait for a recorder",
    "record",
)
#: A live spectrum that has no row after so long has none; nor has one of the backlog.
LONGEST_SECONDS = 120
LONGEST_BACKLOG_SECONDS = 1800


@dataclass
class TaskLog:
    """What workers say of their tasks: when each began and ended, by stage and spectrum."""

    moments: dict[tuple[str, int], list[float]] = field(
        default_factory=lambda: defaultdict(list[float])
    )
    _names: dict[str, tuple[str, list[int]]] = field(default_factory=dict)

    def note(self, event: dict[str, Any]) -> None:
        """Take an event of a worker."""
        kind, uuid = event["type"], event.get("uuid", "")
        if kind == "task-received":
            spectra = re.findall(r"\d+", event["args"].partition(":")[2])
            self._names[uuid] = event["name"], [int(each) for each in spectra]
        elif kind in ("task-started", "task-succeeded") and uuid in self._names:
            name, spectra = self._names[uuid]
            for spectrum in spectra:
                self.moments[f"{name} {kind}", spectrum].append(event["timestamp"])

    def last(self, what: str, spectrum: int, after: float, before: float) -> float:
        """When this happened to a spectrum the last time between two moments."""
        return max((t for t in self.moments[what, spectrum] if after < t <= before), default=np.nan)


@contextmanager
def listening(url: str) -> Iterator[TaskLog]:
    """Note what workers say meanwhile."""
    log = TaskLog()
    with app.connection(url) as connection:
        receiver = app.events.Receiver(connection, handlers={"*": log.note})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
        thread.start()
        try:
            yield log
        finally:
            receiver.should_stop = True  # it looks when the next heartbeat comes
            thread.join(10)


def write_backlog(folder: Path, spectra: int) -> None:
    """Files of simulated stars under many names; each name gives other dropout masks."""
    once = folder.with_name("once")
    simulate(once / "survey", "--stars", "40", "--visits", "3", "--layout", "dr13", "--seed", "9")
    table = Table.read(once / "survey" / NAME)
    for file in table["path"]:
        shutil.move(once / "survey" / file, once / Path(file).name)
    copies(once, folder, spectra, per_round=len(table) + int(table["n_visits"].sum()))
    shutil.rmtree(once)


def simulate(folder: Path, *options: str) -> None:
    """`astronn-stream simulate`."""
    command = [str(EXECUTABLE), "simulate", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def watching(stream: Stream, folder: Path) -> Iterator[None]:
    """`astronn-stream watch` meanwhile."""
    with stream.log("watch").open("ab") as log:
        process = subprocess.Popen(
            [str(EXECUTABLE), "watch", str(folder)], env=stream.environment, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: "following" in stream.log("watch").read_text(), "watch")
        yield
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def steps_of(stream: Stream, tasks: TaskLog) -> list[list[float]]:
    """The moments of each version of each live spectrum that got its row: file, then STEPS."""
    states: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    with stream.engine.connect() as connection:
        for spectrum, version, state, moment in connection.execute(text("SELECT * FROM night")):
            states[spectrum, version].setdefault(state, moment)
    found = []
    for (spectrum, version), moments in states.items():
        if not moments.keys() >= {"waiting", "queued", "done"}:
            continue  # it was rewritten before its turn came
        done = moments["done"]
        middle = [
            # A job is marked as sent just after its message was handed over.
            tasks.last(f"{stage} {kind}", spectrum, moments["queued"] - 0.1, done)
            for stage in ("load", "infer", "record")
            for kind in ("task-started", "task-succeeded")
        ][:-1]
        written = int(version.partition("-")[2]) / 1e9
        found.append([written, moments["waiting"], moments["queued"], *middle, done])
    return found


@contextmanager
def enqueueing(stream: Stream, folder: Path) -> Iterator[None]:
    """`astronn-stream enqueue` of a backlog, if there is one; it is over in the end."""
    if not folder.exists():
        yield
        return
    with ThreadPoolExecutor(1) as threads:
        enqueued = threads.submit(stream.enqueue, folder, tag="")
        wait_for(lambda: stream.done("") > 0, "the backlog's first row", LONGEST_SECONDS)
        yield
        enqueued.result()


def show_latencies(moments: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Print how long versions of spectra took, one in a row, and where that time went."""
    taken = moments[:, -1] - moments[:, 0]
    p50, p90, p99 = np.percentile(taken, [50, 90, 99])
    print(f"{len(taken)} versions of spectra, from the file's last byte to the row:")
    print(f"  p50 {p50:.2f} s, p90 {p90:.2f} s, p99 {p99:.2f} s, longest {taken.max():.2f} s")
    for step, seconds in zip(STEPS, np.diff(moments, axis=1).T, strict=True):
        middle, high = np.nanpercentile(seconds, [50, 99])
        print(f"  {step:<26} p50 {middle:6.3f} s, p99 {high:6.3f} s")


def all_have_rows(stream: Stream, night: Path) -> bool:
    """Whether each spectrum of the night has a row with labels."""
    table = Table.read(night / NAME)
    expected = len(table) + int(table["n_visits"].sum())
    rows = stream.number(
        "SELECT count(*) FROM astronn JOIN job ON job.pk = task_pk WHERE lane = 'live'"
        " AND result_flags & 2048 = 0 AND state = 'done'"
    )
    print(f"{len(table)} stars, {expected} spectra of them: {rows} rows with labels")
    return rows == expected


def nothing_is_left(stream: Stream) -> bool:
    """Whether no message is left in a queue or in a worker's hands."""
    client = stream.redis.client
    left = {name: client.llen(name) for names in QUEUES.values() for name in names}
    left[UNACKED] = client.hlen(UNACKED)
    left = {name: count for name, count in left.items() if count}
    print(f"Left in Redis: {left or 'nothing'}")
    return not left


def flower_agrees(stream: Stream, flower: Flower) -> bool:
    """Whether Flower and the ledger count the same, and every task was served."""
    bulk = stream.number("SELECT count(*) FROM job WHERE lane = 'bulk' AND state = 'done'")
    live = stream.number("SELECT count(*) FROM night WHERE state = 'done'")
    states = Counter(task["state"] for task in flower.api("tasks").values())
    counted = flower.jobs_done()
    print(f"Flower: {counted} jobs done in {states.total()} tasks, {dict(states)}")
    print(f"Ledger: {bulk + live} jobs done, {live} of them live and each time a file was written")
    return counted == bulk + live and set(states) == {"SUCCESS"}


def main() -> None:
    """Let a night pass."""
    parser = argparse.ArgumentParser(description="A night into a watched folder")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--rate", type=float, default=60, help="files per minute")
    parser.add_argument("--backlog", type=int, default=200_000, help="spectra in bulk")
    parser.add_argument("--model", type=weights_path, default=DEMONSTRATION.weights)
    arguments = parser.parse_args()
    environment = {"ASTRONN_STREAM_MODEL": str(arguments.model.resolve())}
    stars = round(arguments.minutes * arguments.rate / 2)  # each comes twice on the average
    with short_folder() as folder:
        files = folder / "data"
        warm, night = files / "warm", files / "night"
        simulate(warm, "--stars", "4", "--seed", "8")
        night.mkdir()
        if arguments.backlog:
            write_backlog(files / "backlog", arguments.backlog)
        server, database = RedisServer(folder, keep=True), PostgresServer(folder)
        with (
            Stream(folder, server, database, environment, files) as stream,
            flower_before(stream) as flower,
        ):
            stream.enqueue(warm, tag="warm")
            wait_for(lambda: stream.done("warm") > 0, "the first row", LONGEST_SECONDS)
            with stream.engine.begin() as connection:
                connection.execute(text(LOG))
            with (
                listening(server.url) as tasks,
                enqueueing(stream, files / "backlog"),
                watching(stream, night),
            ):
                before, started = stream.done(""), time.monotonic()
                simulate(night, "--stars", f"{stars}", "--live", f"{arguments.rate:g}")
                minutes = (time.monotonic() - started) / 60
                rows, waiting = stream.done("") - before, stream.number(OPEN_JOBS)
                wait_for(lambda: stream.number(LIVE_JOBS) == 0, "the last rows", LONGEST_SECONDS)
                time.sleep(2)  # the last events
            print(f"A night of {minutes:.1f} minutes; {rows / minutes / 60:.0f} rows/s in all")
            print(f"Of the backlog {waiting} spectra were open when the last file was written.")
            show_latencies(np.array(steps_of(stream, tasks)))
            wait_for(lambda: stream.number(OPEN_JOBS) == 0, "all rows", LONGEST_BACKLOG_SECONDS)
            time.sleep(2)
            good = [
                all_have_rows(stream, night),
                nothing_is_left(stream),
                flower_agrees(stream, flower),
            ]
        sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
