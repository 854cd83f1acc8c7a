"""The command in a folder that is full of modules which are not its own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import Workplace

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
