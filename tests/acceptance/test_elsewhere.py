"""The command where it finds what is not its own, or lacks what a host should have."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import EXECUTABLE, Workplace

#: Our packages, what workers import late, what Flower and new processes of Python read.
NAMES = [
    *("worker", "producer", "celery", "redis", "numpy", "numba", "torch", "sqlalchemy", "flower"),
    *("astropy", "billiard", "kombu", "flowerconfig", "celeryconfig", "pickle", "sitecustomize"),
]


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A folder whose modules say that they were executed."""
    place = Workplace(tmp_path / "work")
    for name in NAMES:
        said = tmp_path / f"{name} was executed"
        (place.folder / f"{name}.py").write_text(f"open({str(said)!r}, 'w').close()\n")
    return place


def executed(place: Workplace) -> list[str]:
    return [path.name for path in place.folder.parent.glob("* was executed")]


def test_no_module_of_the_current_folder_is_executed(place: Workplace) -> None:
    place.run("simulate", "survey", "--stars", 2, "--visits", 1)
    assert "4 spectra (2 coadds, 2 visits): 4 with labels" in place.run("run", "survey")
    assert executed(place) == []


def test_nor_by_a_stack_that_stays_up_with_flower(place: Workplace, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    stack = place.start("up", "--flower", log=log)
    try:
        wait_for(lambda: "Connected to redis" in log.read_text(), "Flower")
        wait_for(lambda: log.read_text().count(" ready.") == 4, "the workers")
    finally:
        place.stop(stack, signal.SIGTERM, 0)
    assert executed(place) == []


@pytest.mark.parametrize("arguments", [["status"], ["run", "/"], ["up"], ["simulate", "/x"]])
def test_a_current_folder_that_is_gone_is_told_in_one_sentence(
    tmp_path: Path, arguments: list[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ended = subprocess.run(
        ["/bin/sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", EXECUTABLE, *arguments],
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
    )
    reason = "The current folder cannot be used (No such file or directory); go to another one."
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"Error: {reason}\n")


def within_mounts(
    mounts: str, *arguments: object, folder: Path
) -> subprocess.CompletedProcess[str]:
    """The command where some mounts are others, which only it sees."""
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "sh", "-c", mounts], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    return subprocess.run(
        [*unshare, "sh", "-c", f'{mounts} && exec "$@"', "sh", EXECUTABLE, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["worker", "load"], ["run", "spectra"]])
def test_without_shared_memory_processes_do_not_begin(
    tmp_path: Path, arguments: list[str], spectra: Path
) -> None:
    (tmp_path / "spectra").symlink_to(spectra)
    ended = within_mounts("mount -t tmpfs -o ro none /dev/shm", *arguments, folder=tmp_path)
    assert ended.returncode != 0
    assert "Processes cannot share the work here, as /dev/shm cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_read_only_folder_is_refused_before_the_work(tmp_path: Path, spectra: Path) -> None:
    (tmp_path / "spectra").symlink_to(spectra)
    (tmp_path / "ro").mkdir()
    only_reading = "mount -t tmpfs -o ro none ro"
    for option in (["--out", "ro/labels.fits"], ["--report", "ro/page.html"]):
        ended = within_mounts(only_reading, "run", "spectra", *option, folder=tmp_path)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"{option[1]} cannot be written" in ended.stderr
    ended = within_mounts(f"{only_reading} && cd ro", "run", spectra, folder=tmp_path)
    assert ended.returncode == 2
    assert "labels.fits cannot be written" in ended.stderr
    given = ["enqueue", spectra]
    ended = within_mounts(f"{only_reading} && cd ro", *given, folder=tmp_path)
    assert ended.returncode == 1
    assert "ro/astronn-stream.sqlite cannot be opened" in ended.stderr
