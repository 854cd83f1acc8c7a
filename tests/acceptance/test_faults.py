"""Every job ends as one row, equal to that of an undisturbed run, whatever happens meanwhile.

``benchmarks/chaos.py`` does the same with more spectra and more faults.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from astropy.table import Table

from benchmarks.rig.faults import (
    DYING_DEVICE,
    REFUSALS,
    Fault,
    change_weights,
    deliver_twice_in_reverse,
    expire_arrays,
    flush_redis,
    freeze_at_work,
    hooked,
    kill_redis,
    kill_workers,
    killed,
    poison,
    read_only,
    refuse,
    stop_database,
)
from benchmarks.rig.rows import assert_undisturbed, undisturbed
from benchmarks.rig.servers import PostgresServer, RedisServer, SqliteFile, short_folder
from benchmarks.rig.stream import WORKERS, Stream, copies
from benchmarks.rig.waiting import wait_for
from worker.monitoring.status import Status

SPECTRA = 88


@dataclass(frozen=True)
class Night:
    """What is to be processed, and what has to come out."""

    files: Path
    environment: dict[str, str]
    count: int
    rows: Table


@pytest.fixture(scope="session")
def night(
    tmp_path_factory: pytest.TempPathFactory, spectra: Path, demonstration_weights: Path
) -> Night:
    folder = tmp_path_factory.mktemp("night")
    count = copies(spectra, folder / "files", SPECTRA)
    environment = {
        "ASTRONN_STREAM_MODEL": str(demonstration_weights),
        "ASTRONN_STREAM_MC_SAMPLES": "1000",  # with fewer all is done before a fault can strike
        "ASTRONN_STREAM_CHUNK_SIZE": "4",
        "ASTRONN_STREAM_LOAD_PROCESSES": "1",
        "ASTRONN_STREAM_JOB_SECONDS": "8",
        "ASTRONN_STREAM_INFER_BACKLOG": "500",  # stages are stopped here while others go on
    }
    rows = undisturbed(folder / "files", folder / "alone", environment)
    return Night(folder / "files", environment, count, rows)


#: What depends on the database, or on whether Redis keeps its data, is tried with both kinds.
#: The rest would be the same twice; killed workers of a stack on SQLite are in test_run.py.
ON_BOTH = pytest.mark.parametrize("stream", ["postgresql", "sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("stream", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def stream(request: pytest.FixtureRequest, night: Night) -> Iterator[Stream]:
    """On PostgreSQL with a Redis that keeps its data, or on SQLite with one that does not."""
    production = request.param == "postgresql"
    with short_folder() as folder:
        server = RedisServer(folder, keep=production)
        database = PostgresServer(folder) if production else SqliteFile(folder)
        with Stream(folder, server, database, night.environment, night.files) as stream:
            yield stream


FAULTS: dict[str, Fault] = {
    "record killed": partial(kill_workers, name="record", times=2, in_flight=40),
    "dispatcher killed": partial(kill_workers, name="dispatcher", times=2, in_flight=40),
    "redis killed": kill_redis,
    "redis flushed": flush_redis,
    "all delivered twice and reversed": deliver_twice_in_reverse,
}
FAULTS_BEFORE_THE_DATABASE: dict[str, Fault] = {
    "load killed": partial(kill_workers, name="load", times=2, in_flight=40),
    "infer killed": partial(kill_workers, name="infer", times=2, in_flight=40),
    "arrays expired": expire_arrays,
}


@ON_BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_every_job_ends_as_one_undisturbed_row(stream: Stream, night: Night, fault: str) -> None:
    FAULTS[fault](stream, fault, night.count)
    assert_undisturbed(stream.table(fault), night.rows)


@ON_POSTGRES
@pytest.mark.parametrize("fault", FAULTS_BEFORE_THE_DATABASE)
def test_a_fault_before_the_database_changes_no_row(
    stream: Stream, night: Night, fault: str
) -> None:
    FAULTS_BEFORE_THE_DATABASE[fault](stream, fault, night.count)
    assert_undisturbed(stream.table(fault), night.rows)


@ON_POSTGRES
def test_a_database_that_stops_is_waited_for(stream: Stream, night: Night) -> None:
    stop_database(stream, "stopped", night.count, seconds=5)
    assert_undisturbed(stream.table("stopped"), night.rows)
    waiting = stream.log("record").read_text().count("action=record: waiting: The database")
    assert 1 <= waiting <= 3, "an outage is told once"


@ON_POSTGRES
def test_a_file_that_kills_its_reader_is_one_row_and_harms_no_other(
    stream: Stream, night: Night
) -> None:
    with poison(stream) as bad:
        stream.enqueue(stream.files, tag="poison")
        total = stream.number("SELECT count(*) FROM job WHERE tag = 'poison'")
        assert total > night.count
        stream.wait("poison", total)
    table = stream.table("poison")
    poisoned = table["path"] == str(bad.relative_to(stream.files))
    assert set(table["flag_no_result"][poisoned]) == {True}
    assert all("ended 3 processes" in reason for reason in table["no_result_reason"][poisoned])
    assert_undisturbed(table[~poisoned], night.rows)


@ON_POSTGRES
def test_a_dead_device_ends_its_worker_which_comes_back(stream: Stream, night: Night) -> None:
    ends = len(stream.ends)
    with hooked(stream, "infer", DYING_DEVICE):
        stream.enqueue(stream.files, tag="dead device")
        stream.wait("dead device", night.count)
    assert stream.ends[ends:] == [1]
    assert "this worker stops" in stream.log("infer").read_text()
    assert_undisturbed(stream.table("dead device"), night.rows)


@ON_POSTGRES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_worker_that_is_stopped_gives_back_what_it_holds(
    stream: Stream, night: Night, number: signal.Signals
) -> None:
    """Each worker is stopped while it works; every job needs one attempt only."""
    tag = f"stopped by {number.name}"
    stream.stop("load")  # or it would be done with its work before anyone could look
    stream.enqueue_and_send(tag)
    stream.stop("dispatcher")  # it would find again what a worker has lost
    try:
        stream.start("load")
        for name, part in [("load", 0.0), ("infer", 0.3), ("record", 0.6)]:
            stream.wait(tag, int(night.count * part))
            freeze_at_work(stream, tag, night.count, name)
            stream.stop(name, number)
            stream.start(name)
        stream.wait(tag, night.count)
        assert_undisturbed(stream.table(tag), night.rows)
        assert stream.attempts(tag) == 1
    finally:
        stream.start("dispatcher")


@ON_POSTGRES
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_redis_that_refuses_is_waited_for(stream: Stream, night: Night, refusal: str) -> None:
    """Nobody ends, each says why once, and all go on; ``status`` says that and nothing else."""
    ends, logs = len(stream.ends), {name: len(stream.log(name).read_text()) for name in WORKERS}
    told: list[str] = []

    def waits(name: str) -> list[tuple[str, str]]:
        """Who in a process waited for what."""
        said = stream.log(name).read_text()[logs[name] :]
        return re.findall(r"action=(\w+): waiting: (.*)", said)

    def meanwhile() -> None:
        wait_for(lambda: ("dispatch", f"Redis {refusal}") in waits("dispatcher"), "the reason")
        time.sleep(3)  # some tries of everyone
        if "writes" in refusal:  # or `status` does not get in either
            told.extend(Status.model_validate_json(stream.command("status", "--json")).problems)

    refuse(stream, refusal, night.count, refusal, meanwhile)
    assert_undisturbed(stream.table(refusal), night.rows)
    assert stream.attempts(refusal) == 1
    assert stream.ends[ends:] == []
    assert all(len(found) == len(set(found)) for found in map(waits, WORKERS))
    assert told == [f"Redis at {stream.redis.socket} {refusal}"] * ("writes" in refusal)


@ON_POSTGRES
@pytest.mark.parametrize("fault", [killed, read_only])
def test_workers_end_when_told_to_while_redis_is_away(
    stream: Stream, night: Night, fault: Callable[[RedisServer], AbstractContextManager[None]]
) -> None:
    tag = f"stopped while {fault.__name__}"
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, night.count // 3)
    with fault(stream.redis):
        wait_for(lambda: "waiting:" in stream.log("record").read_text(), "the recorder to wait")
        assert [stream.stop(name, seconds=60) for name in WORKERS] == [0] * len(WORKERS)
    stream.start(*WORKERS)
    stream.wait(tag, night.count)
    assert_undisturbed(stream.table(tag), night.rows)


@ON_POSTGRES
def test_spectra_under_way_for_other_weights_wait_for_theirs(
    stream: Stream, night: Night, own_weights: Path
) -> None:
    tag, theirs = "changed weights", stream.environment["ASTRONN_STREAM_MODEL"]
    waiting = "SELECT count(*) FROM job WHERE state = 'waiting' AND tag = :tag"
    stream.enqueue(stream.files, tag=tag)
    stream.wait(tag, night.count // 4)
    stream.stop("infer")
    try:
        stream.environment["ASTRONN_STREAM_MODEL"] = str(own_weights)
        stream.start("infer")
        wait_for(
            lambda: stream.number(waiting, tag=tag) + stream.done(tag) == night.count,
            "all to be sent back",
        )
        assert stream.number(waiting, tag=tag) > 0
    finally:
        stream.environment["ASTRONN_STREAM_MODEL"] = theirs
        stream.start_anew("infer")
    stream.wait(tag, night.count)
    assert_undisturbed(stream.table(tag), night.rows)
    assert stream.attempts(tag) == 1


@ON_POSTGRES
def test_new_weights_are_served_beside_the_old_until_those_are_done(
    stream: Stream, night: Night, own_weights: Path
) -> None:
    change_weights(stream, "changed side by side", night.count, own_weights)
    assert_undisturbed(stream.table("changed side by side"), night.rows)


@ON_BOTH
def test_what_is_away_at_the_start_is_waited_for(stream: Stream, night: Night) -> None:
    for name in WORKERS:
        stream.stop(name)
    stream.redis.kill()
    if isinstance(stream.database, PostgresServer):
        stream.database.stop()
    stream.start(*WORKERS)
    wait_for(lambda: "waiting:" in stream.log("dispatcher").read_text(), "the dispatcher to wait")
    stream.redis.start()
    if isinstance(stream.database, PostgresServer):
        stream.database.start()
        stream.engine.dispose()
    stream.enqueue(stream.files, tag="late")
    stream.wait("late", night.count)
    assert_undisturbed(stream.table("late"), night.rows)


@ON_POSTGRES
def test_a_backlog_does_not_fill_redis_and_a_live_spectrum_passes_it(
    stream: Stream, night: Night
) -> None:
    stream.stop("infer")
    stream.stop("dispatcher")
    limits = {"ASTRONN_STREAM_IN_FLIGHT": "40", "ASTRONN_STREAM_INFER_BACKLOG": "2"}
    stream.environment |= limits
    stream.kill("load")
    try:
        stream.start("dispatcher")
        stream.enqueue(stream.files, tag="backlog")
        wait_for(lambda: stream.redis.client.llen("infer.bulk") == 2, "the mark to be reached", 60)
        on_their_way = "SELECT count(*) FROM job WHERE state = 'queued' AND tag = 'backlog'"
        assert 32 < stream.number(on_their_way) <= 40
        live = sorted(stream.files.rglob("*.fits"))[0]
        stream.enqueue(live, "--lane", "live", "--kind", "coadd", tag="visit")
        wait_for(lambda: stream.redis.client.llen("infer.live") == 1, "the live spectrum", 60)
        stream.start("infer")
        stream.wait("visit", 1)
        stream.wait("backlog", night.count)
    finally:
        for name in limits:
            del stream.environment[name]
        for name in ("load", "dispatcher"):
            stream.kill(name)
        if "infer" not in stream.running():
            stream.start("infer")
    # Nothing but the batch that runs when it comes may be before it.
    before = stream.number(
        "SELECT count(*) FROM astronn WHERE tag = 'backlog' AND created < "
        "(SELECT created FROM astronn WHERE tag = 'visit')"
    )
    assert before <= 8
    assert_undisturbed(stream.table("backlog"), night.rows)
