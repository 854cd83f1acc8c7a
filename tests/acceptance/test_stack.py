"""A stack that stays up, and what is given to it from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.rig.waiting import wait_for
from producer.commands.main import COMMANDS, command_line
from tests.acceptance.command import DONE, Workplace, assert_same_rows
from worker.database.tables import JobState
from worker.identity import weights_sha256
from worker.monitoring.status import Status
from worker.queues import STAGES
from worker.starter.bundled import STARTER


@pytest.fixture
def place(tmp_path: Path, own_weights: Path) -> Workplace:
    return Workplace(tmp_path / "work", {"ASTRONN_STREAM_MODEL": str(own_weights)})


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory, own_weights: Path) -> Iterator[Workplace]:
    """A workplace whose stack the tests share, each with spectra under a tag of its own."""
    place = Workplace(
        tmp_path_factory.mktemp("stack") / "work", {"ASTRONN_STREAM_MODEL": str(own_weights)}
    )
    stack = start_stack(place)
    try:
        yield place
    finally:
        stack.terminate()
        assert stack.wait(timeout=60) == 0


def start_stack(place: Workplace) -> subprocess.Popen[str]:
    log = place.temporary / "up.log"
    process = place.start("up", log=log)
    wait_for(lambda: log.read_text().count(" ready.") == 4, "four workers")
    log.unlink()
    return process


def status(place: Workplace) -> Status:
    return Status.model_validate_json(place.run("status", "--json"))


def jobs(report: Status) -> dict[str, int]:
    """Jobs of both lanes by state, those that there are."""
    states = {state: sum(lane[state] for lane in report.jobs.values()) for state in JobState}
    return {state.value: number for state, number in states.items() if number}


def test_spectra_given_to_a_stack_come_out_as_tables(
    stacked: Workplace, spectra: Path, own_weights: Path
) -> None:
    place = stacked
    output = place.run("enqueue", spectra)
    assert "44 spectra in 10 files: 44 enqueued" in output
    wait_for(lambda: place.count(DONE) == 44, "all jobs")
    report = status(place)
    assert jobs(report) == {"done": 44}
    assert report.without_labels == 0
    assert {name.partition("@")[0] for name in report.workers} == {*STAGES, "load-live"}
    assert report.spectra == {"load": 44, "infer": 44, "record": 44, "no_result": 0}
    assert report.dispatcher
    assert report.problems == []
    assert report.weights == weights_sha256(own_weights)
    assert report.weights_name == weights_sha256(own_weights)[:12]
    assert "All is well." in place.run("status")
    assert "0 enqueued, 44 had results" in place.run("enqueue", spectra)
    for name, rows in [("a.fits", 44), ("a.parquet", 44), ("a.csv", 44), ("a.ecsv", 44)]:
        assert f"{name}: {rows} rows" in place.run("export", "--out", name)
    assert "b.fits: 10 rows" in place.run("export", "--out", "b.fits", "--kind", "coadd")
    assert "0 jobs enqueued again" in place.run("requeue", "--no-result")
    ping = [sys.executable, "-m", "celery", "-A", "worker.app", "inspect", "ping"]
    answer = subprocess.run(
        ping,
        cwd=place.folder,
        env=place.full_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "4 nodes online" in answer.stdout


def test_a_second_stack_on_the_same_database_is_refused(stacked: Workplace) -> None:
    assert "running already" in stacked.run("up", status=2)


def test_spectra_for_the_starter_weights_are_not_given_to_a_stack_of_others(
    stacked: Workplace, spectra: Path
) -> None:
    wait_for(lambda: status(stacked).weights is not None, "the dispatcher")
    jobs_there = stacked.count("SELECT count(*) FROM job")
    model = stacked.environment.pop("ASTRONN_STREAM_MODEL")
    try:
        refused = stacked.run("enqueue", spectra, "--tag", "starter", status=2)
        assert "does not serve the starter weights" in refused
        assert stacked.count("SELECT count(*) FROM job") == jobs_there
        stacked.run("enqueue", spectra, "--tag", "starter", "--model", model)
    finally:
        stacked.environment["ASTRONN_STREAM_MODEL"] = model
    wait_for(lambda: stacked.count(f"{DONE} AND tag = 'starter'") == 44, "all jobs")


# The last of those that share the stack: its jobs wait for ever.
def test_spectra_for_other_weights_wait_for_a_stack_that_serves_them(
    stacked: Workplace, spectra: Path
) -> None:
    wait_for(lambda: status(stacked).weights is not None, "the dispatcher")
    before = jobs(status(stacked))
    (stacked.folder / "other.pt").write_bytes(b"other weights")
    text = stacked.run("enqueue", spectra, "--model", "other.pt")
    assert "serves other weights. The spectra wait in the database" in text
    assert stacked.count("SELECT count(*) FROM job WHERE weights_name = 'other.pt'") == 44
    time.sleep(3)  # the dispatcher leaves them alone
    report = status(stacked)
    assert jobs(report) == before | {"waiting": 44}
    assert report.other_weights == 44
    assert report.problems == ["Jobs for weights that this stack does not serve wait: 44."]


def test_a_stack_that_is_killed_leaves_no_process_and_the_next_one_stops_in_order(
    place: Workplace, spectra: Path
) -> None:
    """Both serve the starter weights, for they are given none."""
    del place.environment["ASTRONN_STREAM_MODEL"]
    told = place.run("enqueue", spectra)
    assert "wait in the database" in told
    assert told.count("--model demonstration") == 1, "the spectra are simulated"
    stack = start_stack(place)
    wait_for(lambda: place.count(DONE) == 44, "all jobs")
    assert status(place).weights_name == STARTER.rows_name
    assert STARTER.rows_name in place.run("export", "--out", "a.csv")
    place.stop(stack, signal.SIGKILL, -signal.SIGKILL)
    wait_for(lambda: not place.processes(), "the workers to stop", 40)
    again = start_stack(place)  # the socket that lies there is no obstacle
    place.run("enqueue", spectra, "--tag", "again")
    wait_for(lambda: place.count(DONE) == 88, "all jobs")
    place.stop(again, signal.SIGINT, 0)
    assert place.left_behind() == []
    assert "wait in the database" in place.run("enqueue", spectra, "--tag", "later")


def test_run_uses_the_broker_and_the_database_that_are_there(
    place: Workplace,
    spectra: Path,
    redis_urls: tuple[str, str],
    postgres_url: str,
    tmp_path: Path,
) -> None:
    place.environment |= {
        "ASTRONN_STREAM_BROKER_URL": redis_urls[0],
        "ASTRONN_STREAM_DATABASE_URL": postgres_url,
    }
    place.run("db", "upgrade")
    assert "44 with labels" in place.run("run", spectra)
    assert place.files() == {"labels.fits"}
    assert place.left_behind() == []
    alone = Workplace(
        tmp_path / "alone", {"ASTRONN_STREAM_MODEL": place.environment["ASTRONN_STREAM_MODEL"]}
    )
    alone.run("run", spectra, "--serial")
    assert_same_rows(alone.table(), place.table())


def test_looking_where_nothing_is_makes_nothing(place: Workplace) -> None:
    report = status(place)
    assert report.jobs == report.workers == {}
    assert len(report.problems) == 2
    assert "Redis does not answer" in report.problems[0]
    assert "no database yet" in report.problems[1]
    assert "no database" in place.run("export", "--out", "x.fits", status=2)
    assert "no database" in place.run("requeue", "--no-result", status=2)
    assert "Say which jobs" in place.run("requeue", status=2)
    assert "A lane can be left to a loader" in place.run(
        "worker", "record", "--lane", "live", status=2
    )
    assert "--name takes letters" in place.run("worker", "load", "--name", "a@b", status=2)
    assert place.files() == set()


def test_the_help_of_every_command_reads(place: Workplace) -> None:
    overview = place.run("--help")
    for command in COMMANDS:
        assert command in overview
        # In this process, for a process of each would take half a minute.
        told = CliRunner().invoke(command_line([command]), [command, "--help"])
        assert told.exit_code == 0
        assert f"Usage: root {command}" in told.output
    assert "Usage: astronn-stream run" in place.run("run", "--help")
