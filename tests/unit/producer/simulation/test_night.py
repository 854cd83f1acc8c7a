from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from benchmarks.rig.waiting import wait_for
from producer.simulation import night
from producer.simulation.night import bursts, write_live
from producer.simulation.survey import Survey, Written, write_survey
from producer.simulation.truth import NAME, Truth

SURVEY = Survey(stars=8, visits=3, seed=11, layout="mixed")
FAST = 1e9


def live(folder: Path, survey: Survey = SURVEY, rate: float = FAST) -> list[Written]:
    """Let a survey arrive; the files in the order of their arrival."""
    arrived: list[Written] = []
    write_live(survey, folder, Truth.of(folder, survey.settings()), rate, arrived.append)
    return arrived


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The survey written at once."""
    folder = tmp_path_factory.mktemp("survey")
    truth = Truth.of(folder, SURVEY.settings())
    write_survey(SURVEY, folder, truth, 1, lambda _: None)
    return folder


def test_stars_come_back_until_all_is_there(whole: Path, tmp_path: Path) -> None:
    arrived = live(tmp_path, rate=600)
    planned = dict(Table.read(whole / NAME)["star", "n_visits"].iterrows())
    assert set(planned.values()) > {1}
    visits: dict[int, int] = {}
    for written in arrived:  # each visit once, in its order
        visits[written.row.star] = visits.get(written.row.star, 0) + 1
        assert written.row.n_visits == visits[written.row.star]
    assert visits == planned


def test_live_survey_ends_as_the_one_written_at_once(whole: Path, tmp_path: Path) -> None:
    live(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_star_that_comes_back_is_rewritten_with_one_more_visit(tmp_path: Path) -> None:
    survey = Survey(stars=4, visits=4, seed=3, layout="sdss5")
    headers: dict[int, list[fits.Header]] = {}

    def look(written: Written) -> None:
        header = fits.getheader(tmp_path / written.row.path)
        headers.setdefault(written.row.star, []).append(header)

    write_live(survey, tmp_path, Truth.of(tmp_path, survey.settings()), FAST, look)
    assert max(map(len, headers.values())) > 1
    for versions in headers.values():
        assert [header["NVISITS"] for header in versions] == list(range(1, len(versions) + 1))
        last = [int(header["STARVER"]) for header in versions]
        assert last == sorted(last)
        for before, after in pairwise(versions):
            kept = [f"{key}{n}" for n in range(1, before["NVISITS"] + 1) for key in ("SFILE", "JD")]
            assert [before[key] for key in kept] == [after[key] for key in kept]


def test_no_part_of_a_file_is_ever_seen(tmp_path: Path) -> None:
    """A reader that looks all the time finds whole files, and a truth that fits them."""
    survey = Survey(stars=12, visits=3, seed=5, layout="mixed")
    seen: Counter[str] = Counter()
    problems: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in tmp_path.rglob("*.fits"):
                if path.name.startswith("."):
                    continue
                data = path.read_bytes()
                size = fits.Header.fromstring(data[:2880].decode())  # a whole first block
                with fits.open(path, memmap=False) as hdus:
                    end = hdus[-1].fileinfo()["datLoc"] + hdus[-1].fileinfo()["datSpan"]
                    whole = len(hdus) == (11 if "dr17" in path.parts else 10)
                if not whole or end % 2880 or "SIMULATE" not in size:
                    problems.append(path.name)
                seen[path.name] += 1
            if (tmp_path / NAME).exists() and "n_visits" not in (tmp_path / NAME).read_text():
                problems.append(NAME)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        arrived = live(tmp_path, survey)
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert len(seen) > 3
    assert len(arrived) > len({written.row.path for written in arrived}) == 12


def test_a_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    """Who has opened a file goes on reading the version that was opened."""
    survey = Survey(stars=3, visits=4, seed=3)
    first: dict[str, tuple[int, bytes]] = {}

    def look(written: Written) -> None:
        path = tmp_path / written.row.path
        if written.row.path not in first:
            first[written.row.path] = (path.stat().st_ino, path.read_bytes())
            handles[written.row.path] = path.open("rb")

    handles: dict[str, object] = {}
    write_live(survey, tmp_path, Truth.of(tmp_path, survey.settings()), FAST, look)
    for name, handle in handles.items():
        with handle as file:  # type: ignore[attr-defined]
            assert file.read() == first[name][1]
    rewritten = [row["path"] for row in Table.read(tmp_path / NAME) if row["n_visits"] > 1]
    assert rewritten
    for name in rewritten:
        assert (tmp_path / name).stat().st_ino != first[name][0]


def test_files_come_in_bursts_at_the_rate_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[Written] = []
    waits: list[tuple[float, int]] = []
    monkeypatch.setattr(night, "_wait_until", lambda moment: waits.append((moment, len(arrived))))
    start = time.monotonic()
    write_live(SURVEY, tmp_path, Truth.of(tmp_path, SURVEY.settings()), 60, arrived.append)
    moments, before = np.array(waits).T
    assert moments[0] - start < 5
    # A second for each file that came before.
    assert np.allclose(moments - moments[0], before)
    assert 1 < len(waits) < len(arrived)


def test_bursts_have_the_size_of_ten_seconds_on_the_average() -> None:
    survey = Survey(stars=4000, visits=1)
    sizes = [len(burst) for burst in bursts(survey, 60, lambda _: 1)]
    assert sum(sizes) == 4000
    # Drawn evenly from 1 to 19: the mean of 400 is 10 within 5 standard errors of 0.27.
    assert np.mean(sizes) == pytest.approx(10, abs=1.4)
    assert max(sizes) <= 19


def test_stars_come_back_between_new_ones() -> None:
    survey = Survey(stars=600, visits=9)
    arrivals = [a.visits for burst in bursts(survey, 60, lambda _: 9) for a in burst]
    assert len(arrivals) == 600 * 9
    until_last_new = arrivals[: max(n for n, visits in enumerate(arrivals) if visits == 1)]
    back = sum(visits > 1 for visits in until_last_new) / len(until_last_new)
    # Two in five of about 1000: 5 standard deviations are 0.08.
    assert back == pytest.approx(0.4, abs=0.08)


def test_slow_arrivals_come_one_by_one() -> None:
    survey = Survey(stars=20, visits=1)
    assert [len(burst) for burst in bursts(survey, 2, lambda _: 1)] == [1] * 20


def test_interrupted_night_goes_on_where_it_stopped(whole: Path, tmp_path: Path) -> None:
    arrived: list[Written] = []

    def interrupt(written: Written) -> None:
        arrived.append(written)
        if len(arrived) == 6:
            raise KeyboardInterrupt

    truth = Truth.of(tmp_path, SURVEY.settings())
    with pytest.raises(KeyboardInterrupt):
        write_live(SURVEY, tmp_path, truth, FAST, interrupt)
    table = Table.read(tmp_path / NAME)
    assert set(contents(tmp_path)) == {NAME, *table["path"]}
    for row in table:
        assert fits.getval(tmp_path / row["path"], "NVISITS") == row["n_visits"]
    rest = live(tmp_path)
    there = {(written.row.star, written.row.n_visits) for written in arrived}
    assert not there & {(written.row.star, written.row.n_visits) for written in rest}
    assert contents(tmp_path) == contents(whole)


def test_batch_completes_an_interrupted_night(whole: Path, tmp_path: Path) -> None:
    def interrupt(_: Written) -> None:
        raise KeyboardInterrupt

    truth = Truth.of(tmp_path, SURVEY.settings())
    with pytest.raises(KeyboardInterrupt):
        write_live(SURVEY, tmp_path, truth, FAST, interrupt)
    truth = Truth.of(tmp_path, SURVEY.settings())
    write_survey(SURVEY, tmp_path, truth, 1, lambda _: None)
    assert contents(tmp_path) == contents(whole)


def test_ctrl_c_ends_a_night_with_a_word_and_its_truth(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from producer.commands.main import main; main()", "simulate"]
    options = [str(tmp_path / "s"), "--stars", "50", "--live", "30", "--layout", "dr13"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        truth = tmp_path / "s" / NAME
        wait_for(lambda: truth.exists() and len(Table.read(truth)) > 0, "the first file")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "files per second" in output
    *lines, last = errors.splitlines()
    assert last == "Error: interrupted; the same command goes on where it stopped."
    assert len(lines) >= 1
    assert all("visit " in line and line.startswith("r6/stars/") for line in lines)
    assert set(contents(tmp_path / "s")) == {NAME, *Table.read(truth)["path"]}
