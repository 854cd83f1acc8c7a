"""The scripts of docs/farm as Slurm would run them, on what they would find there."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rig.servers import short_folder
from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import DONE
from tests.acceptance.composed import Composed
from tests.compose import ROOT

#: The settings of each script, and which service of docker-compose.yml has the same.
SETTINGS = {"load": "astronn-loader.env", "infer": "astronn-inference.env"}
SERVICES = {"load": "load", "infer": "infer-cpu"}
#: The array tasks of the two jobs.
TASKS = [("load", 1), ("load", 2), ("infer", 1)]


@pytest.fixture
def servers(spectra: Path, demonstration_weights: Path) -> Iterator[Composed]:
    """What runs outside of Slurm, with spectra that wait for the farm."""
    with short_folder() as folder:
        composed = Composed(
            folder, DATA_FOLDER="unused", MODEL_FOLDER="unused", FLOWER_BASIC_AUTH="unused"
        )
        try:
            shutil.copy(demonstration_weights, composed.model / "weights.pt")
            for file in sorted(spectra.glob("*.fits"))[:4]:
                shutil.copy(file, composed.data)
            composed.up("record", "dispatcher")
            composed.execute("dispatcher", "astronn-stream", "enqueue", "/data")
            yield composed
        finally:
            composed.close()


def submit(home: Path, stage: str, task: int) -> subprocess.Popen[str]:
    """Run a script's body with what Slurm tells a job, and nothing else."""
    of_slurm = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}
    of_slurm |= {"SLURM_CPUS_PER_TASK": "1"}
    return subprocess.Popen(
        ["/bin/bash", ROOT / "docs" / "farm" / f"{stage}.sbatch"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", **of_slurm},
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write_settings(composed: Composed, home: Path) -> None:
    """The files that the page describes, and where astronn-stream is."""
    for stage, service in SERVICES.items():
        values = composed.environment(service) | {"PATH": f"{Path(sys.executable).parent}:$PATH"}
        kept = [
            name
            for name in values
            if name.startswith("ASTRONN_STREAM_") or name in ("PATH", "XDG_CACHE_HOME")
        ]
        file = home / SETTINGS[stage]
        file.write_text("".join(f'{name}="{values[name]}"\n' for name in kept))
        file.chmod(0o600)


def workers(composed: Composed) -> dict[str, str]:
    """The workers that answer."""
    told = composed.execute("dispatcher", "astronn-stream", "status", "--json")
    answers: dict[str, str] = json.loads(told)["workers"]
    return answers


def test_two_loaders_of_a_host_and_inference_serve_what_waits(
    servers: Composed, tmp_path: Path
) -> None:
    write_settings(servers, tmp_path)
    named = {f"{stage}-7-{task}@{socket.gethostname()}" for stage, task in TASKS}
    jobs = [submit(tmp_path, stage, task) for stage, task in TASKS]
    try:
        count = servers.number("SELECT count(*) FROM job")
        assert count > 4
        wait_for(lambda: servers.number(DONE) == count, "all jobs")
        assert servers.number("SELECT count(teff) FROM astronn") == count
        wait_for(lambda: named <= set(workers(servers)), "all to answer by their names")
    finally:
        for job in jobs:
            job.send_signal(signal.SIGTERM)  # to the one process that Slurm knows
        said = [job.communicate(timeout=60)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], said


@pytest.mark.parametrize("stage", ["load", "infer"])
def test_settings_that_others_may_read_are_refused(tmp_path: Path, stage: str) -> None:
    file = tmp_path / SETTINGS[stage]
    file.write_text("exit 0\n")
    file.chmod(0o640)
    job = submit(tmp_path, stage, 1)
    told, _ = job.communicate(timeout=30)
    assert job.returncode == 2
    assert "Others may read" in told
