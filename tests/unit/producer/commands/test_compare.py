from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner, Result

from producer.commands.main import command_line
from tests.inputs.compared_results import (
    name,
    path,
    write_all_star,
    write_known,
    write_stars,
)
from worker.errors import UsageError
from worker.labels import LABEL_NAMES
from worker.results.noise_model import read_noise_model
from worker.settings import PREFIX, get_settings

STARS = list(range(40))
#: Its labels are 8 uncertainties off.
OUTLIER = 7
WITHOUT_LABELS = 9


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with results of forty stars, in which the command runs."""
    monkeypatch.setenv(f"{PREFIX}DATA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    write_stars(tmp_path / "labels.fits", STARS, {OUTLIER: -8.0}, without=WITHOUT_LABELS)
    return tmp_path


def compare(*arguments: object) -> Result:
    app = command_line(["compare"])
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "120"})


def good(*arguments: object) -> str:
    result = compare(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def figures(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return content


def test_results_are_compared_by_file_and_reported(place: Path) -> None:
    write_known(place / "truth.ecsv", STARS[:30])
    told = good("labels.fits", "--with", "truth.ecsv")
    assert "Compared: 58 spectra of 29 stars. left out: 2 without labels left out: 20 not" in told
    assert "labels_comparison/report.md: tables, pictures and outliers." in told
    # 15 stars are half an uncertainty above and 13 below, one is far off.
    assert "│ teff (K) │ 25 │ " in told
    folder = place / "labels_comparison"
    pictures = {"predicted.png", "residuals.png", "diagram.png", "calibration.png"}
    assert {each.name for each in folder.iterdir()} == {"report.md", "figures.json", *pictures}
    teff = figures(folder)["labels"]["teff"]
    every = teff["by_snr"]["all"]
    assert every["n"] == every["n_tested"] == 58
    assert every["within_after"] == pytest.approx([28 / 29] * 3)
    assert every["within_before"] == pytest.approx([0.0, 28 / 29, 28 / 29])
    assert [every["median_pull"], every["median_e"]] == pytest.approx([0.5, 50])
    assert teff["by_part"]["log g"]["giants"]["n"] == 30
    page = (folder / "report.md").read_text()
    assert all(f"]({picture})" in page for picture in pictures)
    assert "- weights: own.pt (58)" in page


def test_outliers_are_named_with_file_member_labels_and_flags(place: Path) -> None:
    write_known(place / "truth.ecsv", STARS)
    good("labels.fits", "--with", "truth.ecsv", "--out", "r", "--kind", "visit")
    first, second, *_ = figures(place / "r")["outliers"]["uncertainty"]
    assert [first["star"], first["path"]] == [name(OUTLIER), path(OUTLIER)]
    assert first["member"].startswith("apVisit-r6-6561-56587-")
    assert first["off"] == pytest.approx(-8.0, rel=1e-3)
    assert first["labels"]["teff"] == pytest.approx({"found": 4170, "e": 50, "known": 4570})
    assert abs(second["off"]) == pytest.approx(0.5, rel=1e-3)
    (row,) = [
        line
        for line in (place / "r" / "report.md").read_text().splitlines()
        if line.startswith(f"| `{name(OUTLIER)}` |") and "| -8.0 |" in line
    ]
    assert f"`{path(OUTLIER)}`" in row
    assert "uncertain_fe_h" in row
    assert "4170 (4570), 3.70 (4.50), -0.73 (0.07)" in row


def test_all_star_and_a_second_table_and_a_second_file_of_results(place: Path) -> None:
    write_stars(place / "more.parquet", range(40, 60))
    write_all_star(place / "allStar.fits", STARS[:20])
    write_known(place / "rest.csv", list(range(10, 60)), ["mg_h", "teff"])
    told = good(
        *("labels.fits", "more.parquet", "--with", "allStar.fits", "--with", "rest.csv"),
        *("--kind", "coadd", "--out", "r"),
    )
    # Ten stars are in both tables of known labels, the first of which counts.
    assert "Compared: 59 spectra of 59 stars. left out: 1 without labels left out: 11 of" in told
    assert "10 results are in several of the tables of known labels, the first of" in told
    labels = figures(place / "r")["labels"]
    assert {each: labels[each]["by_snr"]["all"]["n"] for each in labels} == {
        **{"teff": 59, "logg": 18, "mg_h": 40, "fe_h": 19},
    }
    page = (place / "r" / "report.md").read_text()
    assert "18 of 22 labels are not there on both sides: c_h, " in page
    assert "- results: labels.fits, more.parquet" in page


def test_a_noise_model_is_fitted_to_half_of_the_stars_and_tested_on_the_others(
    place: Path,
) -> None:
    write_known(place / "truth.ecsv", STARS)
    good("labels.fits", "--with", "truth.ecsv", "--noise-model", "w.json", "--out", "r")
    model = read_noise_model(place / "w.json")
    np.testing.assert_allclose(model.scale, 1.0, rtol=1e-3)  # half of what is twice the raw ones
    every = figures(place / "r")["labels"]["teff"]["by_snr"]["all"]
    assert [every["n"], every["n_tested"]] == [78, 38]
    assert "fitted to half of these stars" in (place / "r" / "report.md").read_text()
    good("labels.fits", "--with", "truth.ecsv", "--noise-model", "w.json", "--all-stars")
    every = figures(place / "labels_comparison")["labels"]["teff"]["by_snr"]["all"]
    assert [every["n"], every["n_tested"]] == [78, 78]
    page = (place / "labels_comparison" / "report.md").read_text()
    assert "fitted to all stars, so" in page
    assert "fitted to half" not in page


def test_a_condition_chooses_results(place: Path) -> None:
    write_known(place / "truth.ecsv", STARS)
    told = good("labels.fits", "--with", "truth.ecsv", "--where", "snr > 100 and kind == 'coadd'")
    assert "21 spectra of 21 stars" in told


def broken(place: Path) -> None:
    (place / "broken.fits").write_bytes(b"SIMPLE  = no")


def other_stars(place: Path) -> None:
    write_known(place / "known.ecsv", [70, 71])


def other_labels(place: Path) -> None:
    table = Table.read(place / "labels.fits")
    table.remove_columns([each for each in LABEL_NAMES if each != "mg_h"])
    table.write(place / "mg.fits")
    table["obj", "mg_h", "e_mg_h"].write(place / "raw.csv")
    write_known(place / "known.ecsv", STARS, ["teff", "logg"])


def no_labels(place: Path) -> None:
    Table({"obj": ["2M"], "snr": [10.0]}).write(place / "none.csv")
    write_known(place / "known.ecsv", STARS)


@pytest.mark.parametrize(
    ("prepare", "arguments", "text"),
    [
        (broken, ["labels.fits", "--with", "broken.fits"], r"broken\.fits cannot be read"),
        (other_stars, ["no.fits", "--with", "known.ecsv"], r"results table no\.fits does not exis"),
        (other_stars, ["labels.fits", "--with", "known.ecsv"], "None of the 78 results is in the"),
        (other_labels, ["mg.fits", "--with", "known.ecsv"], "the results have mg_h, the known"),
        (no_labels, ["none.csv", "--with", "known.ecsv"], "has no label, such as teff;"),
        (
            other_labels,
            ["raw.csv", "--with", "known.ecsv", "--noise-model", "w.json"],
            "has no label, such as raw_teff;",
        ),
        (
            no_labels,
            ["labels.fits", "--with", "known.ecsv", "--where", "snr < 0"],
            "No row of the results is chosen",
        ),
        (
            no_labels,
            ["labels.fits", "--with", "known.ecsv", "--where", "flag_no_result"],
            "None of the 2 results has labels",
        ),
        (
            no_labels,
            ["labels.fits", "--with", "known.ecsv", "--noise-model", "w.pkl"],
            r"w\.pkl: it is written as a \.json file",
        ),
        (no_labels, ["labels.fits", "--with", "known.ecsv", "--all-stars"], "for the fit of"),
        (no_labels, ["labels.fits", "--with", "known.ecsv", "--out", "labels.fits"], "no folder"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_sentence(
    place: Path, prepare: Any, arguments: list[str], text: str
) -> None:
    prepare(place)
    result = compare(*arguments)
    with pytest.raises(UsageError, match=text) as error:
        raise result.exception or AssertionError(result.output)
    assert "\n" not in str(error.value)
    assert not (place / "labels_comparison").exists()


def test_the_command_line_starts_without_torch_and_matplotlib() -> None:
    script = (
        "import sys, producer.commands.compare; print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
