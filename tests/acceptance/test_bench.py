"""The benchmark, as a user runs it who has configured something else before."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import Workplace
from tests.acceptance.test_demo import CONFIGURED

#: None of this is there; a benchmark that used any of it would fail.
ELSEWHERE = {
    name: value
    for name, value in CONFIGURED.items()
    if name.removeprefix("ASTRONN_STREAM_") not in ("MODEL", "CORRECTIONS")
}
#: Threads of torch wait for each other, and on a busy machine for everyone else.
FEW = {"ASTRONN_STREAM_MC_SAMPLES": "10", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def place(tmp_path: Path, demonstration_weights: Path) -> Workplace:  # noqa: ARG001 - they are there
    return Workplace(tmp_path / "work", ELSEWHERE | FEW)


def test_parts_are_measured_and_nothing_is_left_behind(place: Workplace) -> None:
    options = ("--quick", "--batches", "1", "--spectra", "40", "--device", "cpu")
    output = place.run("bench", "live", "stream", "engine", *options)
    assert place.files() == {"astronn-bench"}
    assert place.left_behind() == []
    folder = place.folder / "astronn-bench"
    assert {each.name for each in folder.iterdir()} == {"bench.json", "bench.png"}
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    parts = json.loads((folder / "bench.json").read_text())["parts"]
    ways = {part: [row["way"] for row in rows] for part, rows in parts.items()}
    assert list(ways) == ["engine", "stream", "live"]
    assert ways["engine"][:2] == ["plain loop", "torch"]
    assert len(ways["engine"]) > 2
    assert ways["stream"] == [
        "plain, serial",
        "run --serial",
        "run",
        "run, whole command",
        "run, steady",
    ]
    assert ways["live"] == ["plain, one by one", "live lane"]
    for row in (row for rows in parts.values() for row in rows):
        assert row["seconds"] > 0
        assert row["floor"] > 0
        assert (row["ratio"] == 1) == row["way"].startswith("plain")
        assert row["way"] in output
    assert "Traceback" not in output


def test_loading_is_measured_on_own_files_of_which_one_is_damaged(place: Workplace) -> None:
    place.run("simulate", "mine", "--stars", 2, "--layout", "dr13")
    (place.folder / "mine" / "damaged.fits").write_bytes(b"SIMPLE  = no")
    output = place.run("bench", "load", "--quick", "--files", "mine", "--out", "there")
    rows = json.loads((place.folder / "there" / "bench.json").read_text())["parts"]["load"]
    assert [row["way"] for row in rows] == ["row by row", "file by file", "load stage"] * 2
    assert rows[-1]["case"].startswith("mine: 2 files, ")
    assert "mine: 2 files" in output
    assert all(row["seconds"] > row["floor"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batches", "1,many"], "--batches takes whole numbers from 1 to 65536, such as 1,16,64"),
        (["--batches", "0"], "--batches takes whole numbers"),
        (["load", "--files", "nowhere"], "--files nowhere: there is no such folder"),
        (["--model", "nowhere.pt"], "--model nowhere.pt: there is no such file"),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(
    place: Workplace, arguments: list[str], reason: str
) -> None:
    output = place.run("bench", *arguments, status=2)
    assert reason in output
    assert output.count("\n") == 1
    assert place.files() == set()


def test_an_interruption_ends_all_processes(place: Workplace) -> None:
    process = place.start("bench", "stream", "--quick")
    try:
        wait_for(lambda: any("run" in p.cmdline() for p in place.processes()), "the command", 120)
    except AssertionError:
        process.kill()
        raise
    output = place.stop(process, signal.SIGINT, 130)
    assert "Error: interrupted; parts that were done are in astronn-bench" in output
    wait_for(lambda: not place.left_behind(), "all processes to end")
