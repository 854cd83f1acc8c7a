"""What Prometheus reads, and what the dashboard and the documentation make of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.rig.servers import free_port
from benchmarks.rig.waiting import wait_for
from producer.ledger.dispatcher import Dispatcher
from tests.integration.conftest import Stream
from tests.integration.secured_redis import secured_redis
from tests.integration.test_status import live
from worker.monitoring.metrics import stream_registry
from worker.queues import STAGES
from worker.settings import get_settings
from worker.stages import heartbeat

DOCS = Path(__file__).parents[2] / "docs"
#: What Flower counts of what the dashboard shows; test_flower.py sees that it does.
OF_FLOWER = {
    "flower_events_total",
    "flower_task_runtime_seconds_sum",
    "flower_task_runtime_seconds_count",
    "flower_worker_number_of_currently_executing_tasks",
}

#: What kind of database it is makes no difference here; test_status.py looks at both.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def samples(flower: str | None = None) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and values of the labels in their order, as Prometheus reads them."""
    text = generate_latest(stream_registry(get_settings(), flower)).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in found.setdefault(sample.name.removeprefix("astronn_stream_"), {})
            found[sample.name.removeprefix("astronn_stream_")][key] = sample.value
    return found


@pytest.fixture
def busy(stream: Stream) -> Stream:
    """A stream in which everything has a number."""
    assert stream.process.inference
    Dispatcher(stream.engine, stream.client, get_settings()).step()
    live(*(f"{stage}@here" for stage in STAGES), "infer-14-1@there")
    stream.drain()
    for task in ("load", "infer", "record"):
        heartbeat.count(task, 12)
    live("infer@here")
    return stream


@on_sqlite
@pytest.mark.usefixtures("busy")
def test_every_part_of_the_stream_has_its_numbers() -> None:
    found = samples()
    assert found["up"] == {("redis",): 1, ("database",): 1, ("dispatcher",): 1}
    assert found["problems"] == {(): 0}
    assert found["workers"] == {("load",): 1, ("infer",): 2, ("record",): 1}
    assert found["jobs"]["bulk", "done"] == 12
    assert found["queue_messages"]["infer.bulk",] == 0
    assert found["spectra_total"] == {
        ("load",): 12,
        ("infer",): 12,
        ("record",): 12,
        ("no_result",): 0,
    }
    assert 0 < found["spectra_per_second"]["infer",] <= 12 / 60
    assert 1 <= found["batch_size"]["infer@here",] <= 12
    assert found["batch_wait_seconds"]["infer@here",] >= 0
    assert 0 < found["device_busy_fraction"]["cpu", "infer@here"] <= 1
    assert found["oldest_live_seconds"] == {(): 0}
    assert found["rows_without_labels"] == {(): 0}


@on_sqlite
def test_what_is_away_has_no_numbers(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = f"redis+socket://{tmp_path / 'none.sock'}?virtual_host=0"
    monkeypatch.setenv("ASTRONN_STREAM_BROKER_URL", nowhere)
    get_settings.cache_clear()
    found = samples(flower=f"http://127.0.0.1:{free_port()}")
    assert found["up"] == {
        ("redis",): 0,
        ("database",): 1,
        ("dispatcher",): 0,
        ("flower",): 0,
    }
    assert found["jobs"]["bulk", "waiting"] == len(stream.registered.jobs)
    for name in ("queue_messages", "workers", "spectra_total", "device_busy_fraction"):
        assert name not in found


@on_sqlite
def test_without_a_database_there_are_no_jobs(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del stream
    monkeypatch.setenv("ASTRONN_STREAM_DATABASE_URL", f"sqlite:///{tmp_path / 'none.sqlite'}")
    get_settings.cache_clear()
    found = samples()
    assert found["up"]["database",] == 0
    assert found["queue_messages"]["load.live",] == 0
    for name in ("jobs", "oldest_live_seconds", "rows_without_labels"):
        assert name not in found


@on_sqlite
def test_a_redis_that_refuses_us_is_a_problem(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del stream
    with secured_redis(tmp_path, "somebody", "secret0word") as port:
        monkeypatch.setenv("ASTRONN_STREAM_BROKER_URL", f"redis://:wrong@127.0.0.1:{port}/0")
        get_settings.cache_clear()
        found = samples()
    assert found["up"]["redis",] == 0
    assert found["problems"] == {(): 1}


def expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@on_sqlite
@pytest.mark.usefixtures("busy")
def test_the_dashboard_shows_what_there_is() -> None:
    heartbeat.count("no_result", 1)  # there is a time left only while something is recorded
    ours = {f"astronn_stream_{name}" for name in samples()}
    shown = {
        name
        for expression in expressions()
        for name in re.findall(r"\b(?:astronn_stream|flower)_\w+", expression)
    }
    assert shown <= ours | OF_FLOWER
    assert ours - shown <= {"astronn_stream_spectra_per_second"}  # which it takes of the total


def test_the_dashboard_can_be_provisioned() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    assert dashboard["uid"]
    assert "id" not in dashboard  # Grafana gives it
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert [each["name"] for each in dashboard["templating"]["list"]] == ["datasource"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["type"] in {"timeseries", "stat"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


def test_a_server_says_where_it_listens_and_serves_there(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "astronn-stream"), "metrics"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, "--port", "0"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(lambda: "Metrics: " in (tmp_path / "log").read_text(), "the server")
        found = re.search(
            r"Metrics: (http://127\.0\.0\.1:(\d+)/metrics)", (tmp_path / "log").read_text()
        )
        assert found is not None
        with urllib.request.urlopen(found[1], timeout=20) as page:  # noqa: S310 - loopback
            text = page.read().decode()
        assert 'astronn_stream_up{part="redis"} 0.0' in text
        taken = subprocess.run(
            [*command, "--port", found[2]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert taken.returncode == 2
        assert "in use" in taken.stderr
        assert len(taken.stderr.strip().splitlines()) <= 2
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


def test_prometheus_is_told_where_metrics_are_served() -> None:
    scrape = yaml.safe_load((DOCS / "prometheus.yml").read_text())["scrape_configs"]
    assert [each["static_configs"][0]["targets"] for each in scrape] == [["127.0.0.1:9540"]]
    names = set(re.findall(r"astronn_stream_\w+", (DOCS / "prometheus.yml").read_text()))
    assert names <= set(re.findall(r"astronn_stream_\w+", " ".join(expressions())))


def test_rates_are_of_several_scrapes() -> None:
    (scrape,) = yaml.safe_load((DOCS / "prometheus.yml").read_text())["scrape_configs"]
    interval = int(scrape["scrape_interval"].removesuffix("s"))
    minutes = [int(number) for number in re.findall(r"\[(\d+)m\]", " ".join(expressions()))]
    assert minutes
    assert 60 * min(minutes) >= 4 * interval
