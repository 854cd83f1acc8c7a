from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from producer.commands.main import command_line
from tests.inputs.repeat_database import WEIGHTS, fill
from tests.inputs.repeat_surveys import SCALES, offsets, survey
from worker.calibration import read_repeats
from worker.calibration.read_repeats import read_database, read_results_table, result_sets
from worker.database.session import opened
from worker.errors import FatalError, UsageError
from worker.labels import LABEL_NAMES
from worker.results.noise_model import read_noise_model
from worker.results.read import read_table
from worker.settings import PREFIX, get_settings
from worker.tables.export import write_table


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Results of 300 stars with four visits each."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'rows.sqlite'}"
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", url)
    get_settings.cache_clear()
    with opened(url) as engine:
        fill(engine, survey(0, 300, 4))
        yield engine


def command(*arguments: object) -> Result:
    app = command_line([str(arguments[0])])
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=True)


def printed(*arguments: object) -> str:
    result = command(*arguments)
    assert result.exit_code == 0, result.output or result.exception
    return result.output


def written(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


@pytest.mark.usefixtures("database")
def test_a_survey_whose_noise_is_known_is_calibrated() -> None:
    text = printed("calibrate", "--report", "report", "--pickle", "c.pkl", "--bootstrap", 100)
    assert "weights ab (abababababab), no tag, 1200 visits: 1200 unflagged visits" in text
    assert "--by-snr" not in text  # the noise does not depend on it
    content = written("corrections.json")
    for name, scale, offset in zip(LABEL_NAMES, SCALES, offsets(), strict=True):
        low, high = content[name]["scale_interval"]
        assert low < scale < high
        low, high = content[name]["offset_interval"]
        assert low < offset < high
        assert content[name]["widths"]["all"][2] == pytest.approx(1, abs=0.06)
    assert content["about"]["weights_sha256"] == WEIGHTS
    assert Path("c.pkl").exists()
    assert Path("report/calibration.md").exists()


def test_labels_that_are_not_learnt_are_left_as_they_are_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", f"sqlite:///{tmp_path / 'rows.sqlite'}")
    get_settings.cache_clear()
    visits = survey(0, 100, 3)
    for values in (visits.labels, visits.e_labels, visits.raw_e_labels):
        values[:, [0, 12]] = np.nan
    with opened(f"sqlite:///{tmp_path / 'rows.sqlite'}") as engine:
        fill(engine, visits)
    arguments = ("--report", "report", "--pickle", "c.pkl", "--bootstrap", 20, "--by-snr")
    text = printed("calibrate", *arguments)
    assert "300 visits: 300 unflagged visits of 100 stars." in text
    page = Path("report/calibration.md").read_text("utf-8")
    for told in (" ".join(text.split()), page):
        assert told.count("2 of 22 labels are not learnt: teff, k_h.") == 1
    assert "teff (K)" not in text
    assert "k_h:" not in text
    assert page.count("| k_h ") == 0
    assert page.count("| mg_h ") == 3
    model = read_noise_model(Path("corrections.json"))
    for place in (0, 12):
        assert (model.scale[place], model.offset[place], model.by_snr[place]) == (1.0, 0.0, None)
    assert model.scale[7] != 1.0
    assert written("corrections.json")["k_h"]["note"] == "not learnt"


def test_a_table_gives_what_the_database_gives(database: Engine) -> None:
    printed("calibrate", "--bootstrap", 20)
    for ending in ("fits", "parquet", "csv", "ecsv", "vot"):
        write_table(read_table(database), Path(f"labels.{ending}"))
        printed("calibrate", "--table", f"labels.{ending}", "--out", "t.json", "--bootstrap", 20)
        ours, tables = written("corrections.json"), written("t.json")
        for name in LABEL_NAMES:  # float32 in tables
            assert tables[name]["scale"] == pytest.approx(ours[name]["scale"], rel=1e-3)
        assert tables["about"] == ours["about"]


def test_a_noise_that_depends_on_snr_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noisy = survey(0, 300, 4, by_snr=lambda snr: np.sqrt(100 / snr))
    with opened("sqlite:///rows.sqlite") as engine:
        fill(engine, noisy)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "sqlite:///rows.sqlite")
    get_settings.cache_clear()
    assert "For 22 labels the width of z depends on S/N" in printed("calibrate", "--bootstrap", 20)
    text = printed("calibrate", "--bootstrap", 20, "--by-snr", "--pickle", "c.pkl")
    assert "depends on S/N" not in text
    assert "without the factors by S/N" in text
    for name in LABEL_NAMES:
        factors = written("corrections.json")[name]["by_snr"]["factor"]
        assert factors[0] > 2 * factors[-1]


def test_results_of_several_sets_are_not_mixed(database: Engine) -> None:
    fill(database, survey(1, 300, 4), tag="again")
    fill(database, survey(2, 300, 4), weights="cd" * 32)
    assert len(result_sets(database)) == 3
    failed = command("calibrate")
    assert isinstance(failed.exception, UsageError)
    assert "choose one by --weights" in str(failed.exception)
    assert str(failed.exception).count("1200 visits") == 3
    assert "1200 unflagged" in printed("calibrate", "--tag", "again", "--bootstrap", 20)
    assert "weights cd" in printed("calibrate", "--weights", "cdcd", "--bootstrap", 20)
    write_table(read_table(database), Path("labels.parquet"))
    with pytest.raises(UsageError, match="choose one"):
        read_results_table(Path("labels.parquet"))
    chosen, visits = read_results_table(Path("labels.parquet"), "weights cd", "")
    assert (chosen.weights_sha256, len(visits)) == ("cd" * 32, 1200)
    with pytest.raises(UsageError, match="no labels of visits from weights ee under the tag 'x'"):
        read_results_table(Path("labels.parquet"), "ee", "x")


def test_of_a_large_survey_some_stars_are_read(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_repeats, "MOST_VISITS", 500)
    (chosen,) = result_sets(database)
    first, second = (read_database(database, chosen, seed) for seed in (0, 1))
    assert len(first) == len(second) == 400
    assert not set(first.star.tolist()) & set(second.star.tolist())
    write_table(read_table(database), Path("labels.parquet"))
    _, again = read_results_table(Path("labels.parquet"), seed=1)
    assert set(again.star.tolist()) == set(second.star.tolist())


def test_stars_with_one_visit_are_not_read(tmp_path: Path) -> None:
    visits = survey(0, 20, 3)
    single = np.isin(visits.star, (3, 5)) & (np.arange(len(visits)) % 2 == 0)
    with opened(f"sqlite:///{tmp_path / 'x.sqlite'}") as engine:
        left = visits.only(~single)
        fill(engine, replace(left, snr=np.full(len(left), np.nan)))
        read = read_database(engine, result_sets(engine)[0], 0)
        counts = np.unique(left.star, return_counts=True)[1]
        assert len(read) == counts[counts > 1].sum()
        assert np.isnan(read.snr).all()
        rows = [
            np.flatnonzero(left.observation[:, 0] == each)[0] for each in read.observation[:, 0]
        ]
        np.testing.assert_array_equal(read.raw_e_labels, left.raw_e_labels[rows])
        np.testing.assert_array_equal(read.labels, left.labels[rows])


def test_stars_with_one_visit_do_not_make_a_survey_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_repeats, "MOST_VISITS", 200)
    visits = survey(0, 100, 4)
    first = np.unique(visits.star, return_index=True)[1]
    kept = (visits.star < 40) | np.isin(np.arange(len(visits)), first)
    with opened(f"sqlite:///{tmp_path / 'x.sqlite'}") as engine:
        fill(engine, visits.only(kept))
        write_table(read_table(engine), tmp_path / "x.parquet")
        chosen, from_table = read_results_table(tmp_path / "x.parquet")
        assert chosen.visits == 220
        assert len(from_table) == len(read_database(engine, chosen, 0)) == 160


def test_too_little_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "sqlite:///x.sqlite")
    get_settings.cache_clear()
    assert "There is no database here" in str(command("calibrate").exception)
    assert not Path("x.sqlite").exists()
    with opened("sqlite:///x.sqlite") as engine:
        assert "no labels of visits here" in str(command("calibrate").exception)
        fill(engine, survey(0, 5, 3))
    failed = command("calibrate").exception
    assert str(failed).startswith("5 stars with 15 unflagged visits say too little")
    assert not Path("corrections.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--out", "x.toml"),
        ("--out", "missing/x.json"),
        ("--pickle", "x.json"),
        ("--table", "none.fits"),
        ("--table", "odd.csv"),
        ("--table", "few.csv"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.csv").write_text("a,b\n1\n")
    Path("few.csv").write_text("obj,raw_teff\nx,1\n")
    failed = command("calibrate", *arguments).exception
    assert isinstance(failed, UsageError | FatalError)
    assert Path(arguments[1]).name in str(failed)
    assert "\n" not in str(failed)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("busy_with", "said"),
    [
        ("calibration.calibration.calibrate", "nothing was written"),
        ("reports.calibration.draw_pulls", "the noise model is written"),
    ],
)
def test_an_interruption_says_what_was_written(
    monkeypatch: pytest.MonkeyPatch, busy_with: str, said: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"worker.{busy_with}", interrupted)
    result = command("calibrate", "--report", "report", "--bootstrap", 20)
    assert result.exit_code == 130
    assert f"interrupted; {said}" in result.stderr
    assert Path("corrections.json").exists() == (said != "nothing was written")
