"""Flower shows every task in its true state, to a person with a browser and to the API."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import text

from benchmarks.rig.flower import LOGIN, Flower, flower_before
from benchmarks.rig.servers import RedisServer, SqliteFile, short_folder
from benchmarks.rig.stream import Stream
from benchmarks.rig.waiting import wait_for
from tests.acceptance import chromium
from worker.monitoring.metrics import stream_registry
from worker.settings import Settings

SPECTRA = 7


@dataclass
class Watched:
    """A live stack with Flower before it, and a task of each state with its page then."""

    stream: Stream
    flower: Flower
    pictures: Path
    tasks: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)

    def refusal(self, path: str, login: str | None = LOGIN, method: str = "GET") -> int:
        """The status with which a page is refused."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.flower.ask(path, login, method)
        refused.value.close()
        return refused.value.code

    def find(self, state: str, name: str, *, retried: bool = False) -> str | None:
        """The newest task of a name in a state."""
        for uuid, task in self.flower.api(f"tasks?taskname={name}").items():
            if task["state"] == state and (not retried or (task["retries"] or 0) > 0):
                return str(uuid)
        return None

    def keep(self, title: str, state: str, name: str, *, retried: bool = False) -> None:
        """Wait for a task in a state; remember it, and what a person sees of it now."""
        wait_for(lambda: self.find(state, name, retried=retried), f"a task {title}", 90)
        found = self.find(state, name, retried=retried)
        assert found is not None
        self.tasks[title] = found
        if chromium.is_installed():
            picture = self.pictures / f"{title}.png"
            self.pages[title] = chromium.look(self.flower.page(f"task/{found}"), picture)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    files = tmp_path_factory.mktemp("files")
    simulate = [Path(sys.executable).parent / "astronn-stream", "simulate", files / "stars"]
    subprocess.run([*simulate, "--stars", "2", "--visits", "2", "--seed", "1"], check=True)
    (files / "apStar-damaged-2M0.fits").write_text("This is no FITS file.")
    with short_folder() as folder, short_folder() as other, ExitStack() as stack:
        arrays = RedisServer(other)
        arrays.start()
        stack.callback(arrays.kill)
        environment = {
            "ASTRONN_STREAM_ARRAYS_URL": f"unix://{arrays.socket}?db=0",
            "ASTRONN_STREAM_MC_SAMPLES": "4",
            "ASTRONN_STREAM_LOAD_PROCESSES": "1",
            "ASTRONN_STREAM_JOB_SECONDS": "5",
        }
        with (
            Stream(folder, RedisServer(folder), SqliteFile(folder), environment, files) as stream,
            flower_before(stream) as flower,
        ):
            watched = Watched(stream, flower, tmp_path_factory.mktemp("pictures"))
            let_all_happen(watched, arrays)
            yield watched


def let_all_happen(watched: Watched, arrays: RedisServer) -> None:
    """Bring a task into each state, and all spectra to their end."""
    stream = watched.stream
    stream.enqueue(stream.files, tag="plain")
    stream.wait("plain", SPECTRA)
    for name in ("load", "infer", "record", "no_result"):
        watched.keep(f"{name} done", "SUCCESS", name)

    celery = Celery(broker=stream.redis.url)
    celery.conf.task_send_sent_event = True  # as ours does
    unreadable = {"version": 99, "spectra": [0]}
    celery.send_task("load", args=[unreadable], queue="load.bulk")
    watched.keep("failed", "FAILURE", "load")

    arrays.kill()
    stream.enqueue(stream.files / "stars", tag="away")
    watched.keep("tried again", "RECEIVED", "load", retried=True)
    arrays.start()
    stream.wait("away", SPECTRA - 1)

    stream.stop("infer")
    stream.enqueue(stream.files / "stars", tag="later")
    watched.keep("not taken yet", "PENDING", "infer")
    stream.start("infer")
    stream.wait("later", SPECTRA - 1)

    stream.stop("record")
    stream.enqueue(stream.files / "stars", tag="killed")
    wait_for(lambda: stream.redis.client.llen("record"), "labels", 90)
    with stream.engine.execution_options(writes=True).begin() as held:  # nobody else can write
        stream.start("record")
        watched.keep("of a killed worker", "STARTED", "record")
        stream.kill("record", again=False)
        held.execute(text("SELECT 1"))
    stream.start("record")
    stream.wait("killed", SPECTRA - 1)


def test_flower_asks_for_a_password(watched: Watched) -> None:
    for path in ("", "workers", "tasks", "api/tasks", "api/workers"):
        for login in (None, "watcher:wrong"):
            assert watched.refusal(path, login) == 401
    # Not these, which is why they must not be published.
    assert watched.flower.ask("healthcheck", None) == "OK"
    assert "flower_events_total" in watched.flower.ask("metrics", None)


def test_flower_changes_nothing(watched: Watched) -> None:
    infer = next(name for name in watched.flower.api("workers?status=true") if "infer" in name)
    assert watched.refusal(f"api/worker/shutdown/{infer}", method="POST") == 403


def test_every_task_says_which_spectra_it_is_about(watched: Watched) -> None:
    for task in watched.flower.api("tasks").values():
        if task["uuid"] != watched.tasks["failed"]:
            assert re.match(r"\(\d+ spectr(um|a): apStar-.*: (coadd|\d visit).*\[\d+", task["args"])
            assert "{" not in task["args"]


def test_what_flower_counts_is_what_the_ledger_counts(watched: Watched) -> None:
    done = watched.stream.number("SELECT count(*) FROM job WHERE state = 'done'")
    assert done == SPECTRA + 3 * (SPECTRA - 1)
    wait_for(lambda: watched.flower.jobs_done() == done, "Flower to hear of the last jobs")


def test_each_state_is_the_true_one(watched: Watched) -> None:
    found = {
        title: watched.flower.api(f"task/info/{uuid}") for title, uuid in watched.tasks.items()
    }
    assert {title: task["state"] for title, task in found.items()} == {
        "load done": "SUCCESS",
        "infer done": "SUCCESS",
        "record done": "SUCCESS",
        "no_result done": "SUCCESS",
        "failed": "FAILURE",
        "tried again": "SUCCESS",  # once the array store was back
        "not taken yet": "SUCCESS",
        "of a killed worker": "STARTED",  # for ever: the dispatcher sent its spectra anew
    }
    assert "not subscriptable" in found["failed"]["exception"]
    assert found["tried again"]["retries"] > 0
    assert "The array store does not answer" in found["tried again"]["exception"]
    assert "is not a FITS file" in found["no_result done"]["args"]
    assert found["load done"]["result"].startswith("'")


def test_one_endpoint_serves_flowers_metrics_and_ours(watched: Watched) -> None:
    environment = watched.stream.environment
    settings = Settings(
        broker_url=environment["ASTRONN_STREAM_BROKER_URL"],
        database_url=environment["ASTRONN_STREAM_DATABASE_URL"],
    )
    registry = stream_registry(settings, watched.flower.page("", ""))
    value = registry.get_sample_value
    assert value("astronn_stream_up", {"part": "flower"}) == 1
    done = {"lane": "bulk", "state": "done"}
    assert value("astronn_stream_jobs", done) == SPECTRA + 3 * (SPECTRA - 1)
    names = {family.name for family in registry.collect()}
    assert {"flower_events", "flower_worker_online"} <= names
    assert not any(name.startswith(("process_", "python_")) for name in names)
    infer = [
        name for name in watched.flower.api("workers?status=true") if name.startswith("infer@")
    ]
    online = [value("flower_worker_online", {"worker": name}) for name in infer]
    assert online == [1]


@pytest.mark.parametrize(
    ("title", "shown"),
    {
        "load done": ["SUCCESS", "loaded, ", "coadd, 2 visits ["],
        "infer done": ["SUCCESS", "labelled, 0 without labels"],
        "record done": ["SUCCESS", "jobs done"],
        "no_result done": ["SUCCESS", "apStar-damaged-2M0: coadd", "is not a FITS file"],
        "failed": ["FAILURE", "not subscriptable"],
        "tried again": ["The array store does not answer", "Retries"],
        "not taken yet": ["PENDING", "6 spectra: apStar-"],
        "of a killed worker": ["STARTED", "record@"],
    }.items(),
)
def test_a_person_sees_a_task_of_each_state(watched: Watched, title: str, shown: list[str]) -> None:
    if not chromium.is_installed():
        pytest.skip("chromium is not installed")
    assert [text for text in shown if text not in watched.pages[title]] == []


def test_a_person_sees_the_workers_and_the_tasks(watched: Watched) -> None:
    workers = chromium.look(watched.flower.page("workers"), watched.pictures / "workers.png")
    for name in ("load@", "load-live@", "infer@", "record@"):
        assert name in workers
    assert workers.count("Online") >= 4
    # The newest fifteen.
    tasks = chromium.look(watched.flower.page("tasks"), watched.pictures / "tasks.png", width=1600)
    for shown in ("load", "infer", "record", "(6 spectra: apStar-", "SUCCESS", "STARTED"):
        assert shown in tasks
