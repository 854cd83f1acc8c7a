from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from producer.commands.main import command_line
from producer.simulation import survey as survey_module
from producer.simulation.observation import Layout
from producer.simulation.survey import Survey, Written, write_survey
from producer.simulation.truth import NAME, Truth
from producer.sources.files import find_files, spectra_of
from worker.errors import FatalError, UsageError
from worker.labels import LABELS
from worker.spectra.load import load_spectra

SURVEY = Survey(stars=9, visits=3, seed=7, layout="mixed")


def write(folder: Path, survey: Survey = SURVEY, processes: int = 1) -> list[Written]:
    """Write a survey; the files that were written."""
    written: list[Written] = []
    truth = Truth.of(folder, survey.settings())
    write_survey(survey, folder, truth, processes, written.append)
    return written


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey")
    write(folder)
    return folder


def test_every_file_of_a_survey_loads(whole: Path) -> None:
    files = find_files([whole], whole)
    assert len(files) == SURVEY.stars
    entries = [entry for file in files for entry in spectra_of(file, whole, "both")]
    for coadd_mask in ("and", "or"):
        loaded = load_spectra(entries, whole.resolve(), coadd_mask)
        assert loaded.failures == ()
        assert len(loaded.spectra) == len(entries) >= 2 * SURVEY.stars
        # Continuum-normalised: the median pixel of a spectrum lies near 1.
        assert np.all(np.abs(np.median(loaded.flux, axis=1) - 1) < 0.2)


def test_truth_tells_of_each_file_what_is_in_it(whole: Path) -> None:
    truth = Table.read(whole / NAME)
    assert truth["star"].tolist() == list(range(SURVEY.stars))
    assert truth["layout"].tolist() == ["dr13", "dr17", "sdss5"] * 3
    stars = SURVEY.observe(range(SURVEY.stars))
    for row, (star, visits) in zip(truth, stars, strict=True):
        header = fits.getheader(whole / row["path"])
        assert (header["OBJID"], header["RA"], header["DEC"]) == (row["obj"], row["ra"], row["dec"])
        assert header["NVISITS"] == row["n_visits"] == row["n_visits_planned"] == len(visits.snr)
        assert header["SNR"] == row["snr"]
        assert row["v_helio"] == star.v_helio
        assert [row[label.name] for label in LABELS] == star.labels.tolist()


def test_truth_says_how_it_was_made_and_that_it_is_simulated(whole: Path) -> None:
    truth = Table.read(whole / NAME)
    assert "no telescope saw these stars" in truth.meta["notice"]
    made_with = truth.meta["simulate"]
    assert made_with["software"].startswith("astronn-stream ")
    assert {name: made_with[name] for name in SURVEY.settings()} == SURVEY.settings()
    for label in LABELS:
        assert (str(truth[label.name].unit), truth[label.name].description) == (
            label.unit,
            label.description,
        )


def test_same_settings_give_the_same_bytes_with_any_number_of_processes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "_CHUNK", 2)
    monkeypatch.setattr(survey_module, "_WORTH_A_PROCESS", 1)
    assert len(write(tmp_path / "again", processes=2)) == SURVEY.stars
    assert contents(tmp_path / "again") == contents(whole)


def test_other_seed_gives_other_stars(whole: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", Survey(stars=2, seed=8, layout="mixed"))
    assert not set(contents(tmp_path / "other")) - {NAME} & set(contents(whole))


def test_second_call_writes_what_is_not_there(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "survey"
    shutil.copytree(whole, folder)
    assert write(folder) == []
    path = Table.read(folder / NAME)["path"][4]
    (folder / path).unlink()
    assert [written.row.path for written in write(folder)] == [path]
    assert contents(folder) == contents(whole)


def test_interrupted_survey_has_a_truth_and_goes_on(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "survey"
    count = 0

    def interrupt(_: Written) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_survey(SURVEY, folder, Truth.of(folder, SURVEY.settings()), 1, interrupt)
    truth = Table.read(folder / NAME)
    assert truth["star"].tolist() == [0, 1, 2, 3]
    assert set(contents(folder)) == {NAME, *truth["path"]}
    assert len(write(folder)) == SURVEY.stars - 4
    assert contents(folder) == contents(whole)


def test_interrupted_processes_lose_and_repeat_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "_CHUNK", 2)
    monkeypatch.setattr(survey_module, "_WORTH_A_PROCESS", 1)
    told: list[int] = []

    def interrupt(written: Written) -> None:
        told.append(written.row.star)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_survey(SURVEY, tmp_path, Truth.of(tmp_path, SURVEY.settings()), 2, interrupt)
    assert len(told) == len(set(told)) >= 3
    truth = Table.read(tmp_path / NAME)
    assert truth["star"].tolist() == sorted(told)
    assert set(contents(tmp_path)) == {NAME, *truth["path"]}
    write(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_empty_truth_of_a_new_survey_can_be_read(tmp_path: Path) -> None:
    Truth.of(tmp_path, SURVEY.settings())
    assert len(Table.read(tmp_path / NAME)) == 0
    assert len(Truth.of(tmp_path, SURVEY.settings())) == 0


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Survey(stars=9, visits=3, seed=8, layout="mixed"), "seed 7 instead of 8"),
        (Survey(stars=9, visits=2, seed=7, layout="dr17"), "visits 3 instead of 2, layout mixed"),
    ],
)
def test_folder_of_another_survey_is_refused(whole: Path, other: Survey, difference: str) -> None:
    before = contents(whole)
    with pytest.raises(UsageError, match=rf"another simulated survey \({difference}"):
        Truth.of(whole, other.settings())
    assert contents(whole) == before


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "apStar-r6-real.fits").touch()
    with pytest.raises(UsageError, match=r"no simulated survey, such as apStar-r6-real\.fits"):
        Truth.of(tmp_path, SURVEY.settings())


@pytest.mark.parametrize("text", ["", "not a table", "# %ECSV 1.0\n# ---\n# datatype: [\n"])
def test_damaged_truth_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(UsageError, match=r"truth\.ecsv is no table of a simulated survey"):
        Truth.of(tmp_path, SURVEY.settings())


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "survey").touch()
    with pytest.raises(FatalError, match="survey cannot be used"):
        Truth.of(tmp_path / "survey", SURVEY.settings())


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    truth = Truth.of(tmp_path, SURVEY.settings())
    (tmp_path / "r6").touch()  # where a folder should be
    with pytest.raises(FatalError, match=r"r6/stars/.*\.fits cannot be written"):
        write_survey(SURVEY, tmp_path, truth, 1, lambda _: None)


def test_survey_that_has_no_room_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Truth.of(tmp_path, SURVEY.settings())
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(survey_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"about 0\.0 GB .* has 0\.0 GB free"):
        write_survey(SURVEY, tmp_path, truth, 1, lambda _: None)
    assert set(contents(tmp_path)) == {NAME}


@pytest.mark.parametrize("layout", ["dr13", "sdss5"])
def test_expected_size_is_about_the_size(tmp_path: Path, layout: Layout) -> None:
    one = Survey(stars=2, visits=1, layout=layout)
    size = sum(written.size for written in write(tmp_path, one))
    assert one.expected_bytes() == pytest.approx(size, rel=0.02)
    # One, two or three visits make 1, 4 or 5 rows.
    three, overhead = Survey(stars=2, visits=3, layout=layout), 80_000
    in_rows = three.expected_bytes() - overhead
    assert in_rows == pytest.approx((one.expected_bytes() - overhead) * 10 / 3)


# The command


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(command_line(["simulate"]), ["simulate", *map(str, arguments)])
        return result.exit_code, result.stdout, str(result.exception or "")

    return invoke


def test_command_writes_and_says_what_it_wrote(tmp_path: Path, run: Run) -> None:
    options = (tmp_path / "s", "--stars", 2, "--visits", 1, "--layout", "dr13", "--snr", 50, 60)
    status, output, _ = run(*options)
    assert status == 0
    assert output.startswith("2 files with 4 spectra (0.5 MB) in ")
    assert f"Truth: {tmp_path / 's' / NAME}" in output
    truth = Table.read(tmp_path / "s" / NAME)
    assert truth["n_visits"].tolist() == [1, 1]
    assert truth.meta["simulate"]["snr"] == [50.0, 60.0]
    _, output, _ = run(*options)
    assert output.startswith("Nothing to write: all 2 stars are there.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--live", 0), "--live takes a rate"),
        (("--live", "nan"), "--live takes a rate"),
        (("--live", 1e300), "from 0.002 to 1000000"),
        (("--live", 1e-300), "--live takes a rate"),
        (("--snr", 100, 10), "--snr takes the lowest and the highest"),
        (("--snr", 0, 10), "--snr takes the lowest and the highest"),
    ],
)
def test_senseless_options_are_refused_and_write_nothing(
    tmp_path: Path, run: Run, options: tuple[object, ...], sentence: str
) -> None:
    status, _, error = run(tmp_path / "s", *options)
    assert status != 0
    assert sentence in error
    assert not (tmp_path / "s").exists()
