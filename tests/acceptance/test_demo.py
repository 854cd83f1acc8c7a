"""The demonstration, as a newcomer runs it who has configured something else before."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import Workplace, assert_same_rows
from worker.results.noise_model import read_noise_model
from worker.starter.bundled import DEMONSTRATION

#: None of this is there; a demonstration that used any of it would fail.
CONFIGURED = {
    "ASTRONN_STREAM_BROKER_URL": "redis://127.0.0.1:1/0",
    "ASTRONN_STREAM_ARRAYS_URL": "redis://127.0.0.1:1/1",
    "ASTRONN_STREAM_DATABASE_URL": "sqlite:///own.sqlite",
    "ASTRONN_STREAM_DATA_ROOT": "nowhere",
    "ASTRONN_STREAM_MODEL": "own.pt",
    "ASTRONN_STREAM_CORRECTIONS": "own.json",
}
PICTURES = {"planes.png", "star.png", "predicted.png", "residuals.png"}
STARS = 12
DEMO = ("demo", "show", "--stars", STARS)


@pytest.fixture
def place(tmp_path: Path, demonstration_weights: Path) -> Workplace:  # noqa: ARG001 - they are there
    return Workplace(tmp_path / "work", dict(CONFIGURED))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, demonstration_weights: Path) -> Workplace:  # noqa: ARG001
    """A demonstration that was interrupted as its survey was there, and what it printed then."""
    place = Workplace(tmp_path_factory.mktemp("demo") / "work", dict(CONFIGURED))
    process = place.start(*DEMO)
    wait_for((place.folder / "show" / "survey" / "truth.ecsv").exists, "the survey to begin")
    (place.folder / "interrupted.txt").write_text(place.stop(process, signal.SIGINT, 130))
    wait_for(lambda: not place.left_behind(), "all processes to end")
    (place.folder / "output.txt").write_text(place.run(*DEMO))
    return place


@pytest.fixture(scope="module")
def truth(shown: Workplace) -> Table:
    return Table.read(shown.folder / "show" / "survey" / "truth.ecsv")


def test_all_lies_in_one_folder_and_nothing_is_left_behind(shown: Workplace) -> None:
    folder = shown.folder / "show"
    names = {each.name for each in folder.iterdir()}
    assert names == {"survey", "demo.sqlite", "labels.fits", "demo.md", *PICTURES}
    assert shown.files() == {"show", "interrupted.txt", "output.txt"}
    assert shown.left_behind() == []
    page = (folder / "demo.md").read_text()
    assert "demonstration weights, which were trained on such stars" in page
    for name in PICTURES:
        assert f"]({name})" in page
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_demonstration_says_that_it_goes_on(shown: Workplace) -> None:
    told = (shown.folder / "interrupted.txt").read_text()
    assert "the same command goes on where it stopped" in told


def test_every_simulated_spectrum_has_its_row(shown: Workplace, truth: Table) -> None:
    table = shown.table("show/labels.fits")
    assert len(truth) == STARS
    paths, counts = np.unique(table["path"].astype(str), return_counts=True)
    expected = {row["path"]: row["n_visits"] + 1 for row in truth}
    assert dict(zip(paths.tolist(), counts.tolist(), strict=True)) == expected
    assert not table["flag_no_result"].any()


def test_the_rows_are_those_of_the_demonstration_weights(shown: Workplace) -> None:
    table = shown.table("show/labels.fits")
    assert set(table["weights_name"].astype(str)) == {DEMONSTRATION.rows_name}
    noise_model = read_noise_model(DEMONSTRATION.corrections)
    assert set(table["corrections_sha256"].astype(str)) == {noise_model.sha256}


def test_the_labels_are_near_the_truth_of_their_stars(shown: Workplace, truth: Table) -> None:
    table = shown.table("show/labels.fits")
    coadds = table[table["kind"].astype(str) == "coadd"]
    of_file = {row["path"]: row for row in truth}
    for name, near in (("teff", 150.0), ("logg", 0.3), ("fe_h", 0.15)):
        known = np.array([of_file[path][name] for path in coadds["path"].astype(str)])
        assert np.median(np.abs(coadds[name] - known)) < near
        assert np.std(known) > 2 * near  # so that a constant answer would not do


def test_what_is_printed_tells_whose_weights_what_came_out_and_where(shown: Workplace) -> None:
    output = (shown.folder / "output.txt").read_text()
    assert output.count(DEMONSTRATION.notice(0)) == 1
    assert f"({STARS} coadds, " in output
    assert "Against the truth" in output
    assert "teff (K)" in output
    assert "Pictures and tables: show/demo.md" in output
    assert "Warning" not in output


def test_a_second_run_uses_what_is_there(shown: Workplace) -> None:
    before, folder = shown.table("show/labels.fits"), shown.folder / "show"
    written = {path: path.stat().st_mtime_ns for path in (folder / "survey").rglob("*.fits")}
    output = shown.run(*DEMO)
    assert f"Nothing to compute: all {len(before)} spectra have results already" in output
    assert output.count(DEMONSTRATION.notice(0)) == 1
    after = shown.table("show/labels.fits")
    assert_same_rows(before, after)
    assert (before["modified"] == after["modified"]).all()
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_another_survey_in_the_same_folder_is_refused(shown: Workplace) -> None:
    output = shown.run("demo", "show", "--stars", STARS + 1, status=2)
    assert "another simulated survey (stars 12 instead of 13)" in output


def test_a_folder_with_files_of_the_users_is_refused_and_left_as_it_is(place: Workplace) -> None:
    (place.folder / "labels.fits").write_text("mine")
    output = place.run("demo", ".", "--stars", STARS, status=2)
    assert "holds files that are no demonstration, such as labels.fits" in output
    assert place.files() == {"labels.fits"}
    assert (place.folder / "labels.fits").read_text() == "mine"
