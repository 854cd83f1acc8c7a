"""Every service of docker-compose.yml at work, as processes with its command and environment."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rig.servers import short_folder
from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import DONE
from tests.acceptance.composed import PASSWORDS, Composed
from tests.compose import SERVICES

FLOWER = "somebody:secret0word"
#: Where inference runs here.
PROFILE = "cpu"
SERVICES_HERE = [
    name for name, service in SERVICES.items() if PROFILE in service.get("profiles", [PROFILE])
]
#: What runs until it is stopped, the ones that others need first.
SERVING = [name for name in SERVICES_HERE if name not in ("postgres", "migrate")]
CHECKED = [name for name in SERVICES_HERE if "healthcheck" in SERVICES[name]]


@pytest.fixture(scope="module")
def composed(spectra: Path, demonstration_weights: Path) -> Iterator[Composed]:
    """The services, with spectra of both kinds on their way."""
    with short_folder() as folder:
        given = {"FLOWER_BASIC_AUTH": FLOWER, "LOAD_PROCESSES": "1"}
        services = Composed(folder, DATA_FOLDER="unused", MODEL_FOLDER="unused", **given)
        try:
            shutil.copy(demonstration_weights, services.model / "weights.pt")
            for file in sorted(spectra.glob("*.fits"))[:2]:
                shutil.copy(file, services.data)
            services.up(*SERVING)
            yield services
        finally:
            services.close()


@pytest.fixture(scope="module")
def enqueued(composed: Composed) -> int:
    """How many spectra were given to them, by the command that the file names."""
    told = composed.execute("dispatcher", "astronn-stream", "enqueue", "/data")
    count = composed.number("SELECT count(*) FROM job")
    assert count > 2
    assert f"{count} spectra in 2 files" in " ".join(told.split())
    return count


def refused(composed: Composed) -> set[tuple[str, str]]:
    """Which users were refused what by both Redis, ever since they run."""
    found = set()
    for server in ("redis", "arrays"):
        with composed.admin(server) as client:
            found |= {(each["username"], each["object"]) for each in client.acl_log()}
    return found


def test_spectra_become_rows_in_postgresql(composed: Composed, enqueued: int) -> None:
    wait_for(lambda: composed.number(DONE) == enqueued, "all jobs")
    with_labels = "SELECT count(teff) FROM astronn WHERE no_result_reason IS NULL"
    assert composed.number(with_labels) == enqueued
    assert composed.running() == set(SERVING)


@pytest.mark.parametrize("name", CHECKED)
def test_health_checks_find_them_well(composed: Composed, name: str) -> None:
    wait_for(lambda: composed.check(name) == 0, f"{name} to answer")


def test_a_file_that_arrives_is_processed(composed: Composed, enqueued: int, spectra: Path) -> None:
    arriving = sorted(spectra.glob("*.fits"))[2]
    shutil.copy(arriving, composed.data / arriving.name)
    wait_for(lambda: composed.number(DONE) > enqueued, "its rows", 90)


def test_flower_asks_for_its_password(composed: Composed) -> None:
    address = f"http://127.0.0.1:{composed.flower_port}/workers?json=1"
    wait_for(lambda: composed.check("flower") == 0, "flower")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address, timeout=10)
    request = urllib.request.Request(address)
    request.add_header("Authorization", f"Basic {b64encode(FLOWER.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - this machine's
        assert answer.status == 200


def test_no_command_line_tells_a_password(composed: Composed) -> None:
    lines = [" ".join(process.cmdline()) for process in composed.processes()]
    assert len(lines) >= len(SERVING)
    for secret in (*PASSWORDS.values(), FLOWER):
        assert not any(secret in line for line in lines)


def test_those_who_watch_find_all_well(composed: Composed) -> None:
    told = json.loads(composed.execute("metrics", "astronn-stream", "status", "--json"))
    assert told["problems"] == []
    assert told["redis_writes"]


def test_sigterm_ends_each_in_time_and_checks_notice(composed: Composed) -> None:
    servers = {"redis", "arrays"}
    assert composed.stop(*set(SERVING) - servers) == dict.fromkeys(set(SERVING) - servers, 0)
    for name in ("load", "flower"):
        assert composed.check(name, patience=1) != 0
    # kombu lets Flower look for what dead workers held, and bears that it may not.
    assert refused(composed) <= {("watcher", "set")}
    assert composed.stop(*servers) == dict.fromkeys(servers, 0)
    assert composed.check("redis") != 0
