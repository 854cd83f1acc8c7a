"""Names and headers that would steer a terminal or forge lines, through every command."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import DONE, Workplace
from tests.inputs.apstar_files import write_apstar

FORGED = "[2026-01-01 00:00:00,000: CRITICAL-x] all is lost"
#: Colours, C1, direction marks, line and paragraph separators, and plain line breaks.
EVIL = f"\x1b[31m\x9b2J\u202e\u2066\u2028\u2029\x85\r\n{FORGED}\n"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A folder with spectra of such names, one of which can be read."""
    place = Workplace(tmp_path / "work", {"ASTRONN_STREAM_MC_SAMPLES": "4"})
    folder = place.folder / "spectra"
    folder.mkdir()
    good = write_apstar(folder / f"apStar-r6-{EVIL}.fits", n_visits=2).path
    header = good.read_bytes()
    # The standard knows no such bytes in a header; a file may have them all the same.
    good.write_bytes(header.replace(b"apVisit-r6-", b"ap\x1b[2J\n\x9b\r--", 1))
    (folder / f"apStar-r6-bad{EVIL}.fits").write_text("no FITS")
    return place


def assert_harmless(text: str) -> None:
    lines = text.split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith(FORGED[:12])] == []


def run(place: Workplace, *arguments: object, status: int = 0) -> str:
    output = place.run(*arguments, status=status)
    assert_harmless(output)
    return output


def test_the_terminal_gets_nothing_of_it(place: Workplace) -> None:
    assert "without labels: " in run(place, "run", "spectra", "--serial")
    run(place, "enqueue", "spectra", "--tag", EVIL)
    run(place, "enqueue", f"spectra/none{EVIL}", status=2)
    run(place, "run", f"spectra/none{EVIL}", status=2)
    run(place, "run", "spectra", "--out", f"none/{EVIL}.fits", status=2)
    run(place, "status")
    run(place, "status", "--json")
    run(place, "export", "--out", f"{EVIL}.csv")
    run(place, "export", "--out", f"none/{EVIL}.csv", status=2)
    run(place, "export", "--out", "x.csv", "--where", EVIL, status=2)
    run(place, "plot", "--out", f"pictures{EVIL}")
    run(place, "plot", "--out", "pictures", "--spectrum", f"none{EVIL}", status=2)
    bad = next((place.folder / "spectra").glob("*bad*"))
    run(place, "plot", "--out", "pictures", "--spectrum", bad, status=1)
    run(place, "model", "info", f"none{EVIL}", status=2)
    run(place, "calibrate", "--table", f"none{EVIL}.fits", status=2)


def test_nor_do_the_logs_of_workers(place: Workplace) -> None:
    log = place.temporary / "up.log"
    stack = place.start("up", log=log)
    try:
        run(place, "enqueue", "spectra")
        wait_for(lambda: place.count(DONE) == 4, "all rows")
        run(place, "status")
    finally:
        place.stop(stack, signal.SIGTERM, 0)
    logged = [line for line in log.read_text().split("\n") if "all is lost" in line]
    assert any("action=load" in line for line in logged)
    for line in log.read_text().split("\n"):
        assert not line.startswith(FORGED[:12])
        assert "\x1b" not in line
