"""Weights that have learnt some labels: trained, in the stream's rows, and in all made of these."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from pyarrow import parquet
from typer.testing import CliRunner

from producer.commands.main import command_line
from tests.inputs.apstar_files import object_name, write_apstar
from worker import infer
from worker.calibration.read_repeats import read_results_table
from worker.database.tables import LABEL_PREFIXES
from worker.labels import LABEL_NAMES, LABELS
from worker.network.checkpoint import read_not_learnt
from worker.pictures.sample import Sample
from worker.settings import PREFIX, get_settings

LEARNT = ("teff", "logg", "fe_h", "o_h", "mg_h", "si_h", "s_h", "ca_h", "ti_h")
OTHERS = tuple(name for name in LABEL_NAMES if name not in LEARNT)
TOLD = f"13 of 22 labels are not learnt: {', '.join(OTHERS)}."
SPECTRA = 36


@dataclass(frozen=True)
class Place:
    """A folder with spectra, weights and a database, and the command line in it."""

    folder: Path

    def run(self, *arguments: object) -> str:
        """What a command prints."""
        settings = {
            "DATA_ROOT": self.folder,
            "DATABASE_URL": f"sqlite:///{self.folder / 'rows.sqlite'}",
            "MODEL": self.folder / "w.pt",
            "MC_SAMPLES": 4,
            "LOAD_PROCESSES": 1,
            "DEVICE": "cpu",
        }
        given = [str(each) for each in arguments]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(f"{PREFIX}{name}", str(value))
            get_settings.cache_clear()
            result = CliRunner().invoke(command_line(given), given, catch_exceptions=False)
        get_settings.cache_clear()
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    def exported(self, ending: str) -> Path:
        """The table of all rows in a format."""
        path = self.folder / f"all{ending}"
        self.run("export", "--out", path)
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Weights of one epoch, and the rows of the spectra that they were trained on."""
    place = Place(tmp_path_factory.mktemp("partly"))
    rng = np.random.default_rng(0)
    for seed in range(12):
        write_apstar(place.folder / "spectra" / f"{seed}.fits", n_visits=2, seed=seed)
    labels = {name: rng.normal(-0.3, 0.2, 12) for name in LEARNT}
    labels |= {"teff": rng.normal(4700, 300, 12), "logg": rng.normal(2.5, 0.3, 12)}
    table = Table({"obj": [object_name(seed) for seed in range(12)], **labels})
    table.write(place.folder / "labels.csv")
    options = ("--epochs", 1, "--validation", 0.4, "--device", "cpu")
    told = place.run(
        *("model", "train", place.folder / "spectra", "--labels", place.folder / "labels.csv"),
        *("--out", place.folder / "w.pt", *options),
    )
    assert told.count(TOLD) == 1
    assert "Scatter on held-out stars: teff" in told
    corrections = place.folder / "w.corrections.json"
    place.run(
        *("run", place.folder / "spectra", "--serial", "--corrections", corrections),
        *("--out", place.folder / "run.fits"),
    )
    return place


def test_a_checkpoint_its_noise_model_and_its_report_name_what_is_not_learnt(place: Place) -> None:
    assert read_not_learnt(place.folder / "w.pt") == OTHERS
    factors = json.loads((place.folder / "w.corrections.json").read_text())
    assert {(factors[name]["scale"], factors[name]["offset"]) for name in OTHERS} == {(1.0, 0.0)}
    page = (place.folder / "w_report" / "report.md").read_text("utf-8")
    assert page.count(TOLD) == 1
    assert "| teff |" in page
    assert "| k_h" not in page
    assert TOLD in place.run("model", "verify", place.folder / "w.pt")
    description = json.loads(place.run("model", "info", place.folder / "w.pt", "--json"))
    assert [each["name"] for each in description["labels"] if each["mean"] is None] == [*OTHERS]


@pytest.mark.parametrize("ending", [".fits", ".parquet", ".csv", ".ecsv", ".vot"])
def test_the_rows_have_numbers_for_what_is_learnt_and_nothing_for_the_rest(
    place: Place, ending: str
) -> None:
    path = place.exported(ending)
    if ending == ".parquet":
        read = parquet.read_table(path)
        columns = {name: read[name].to_pylist() for name in read.column_names}
        missing = {name: [x is None for x in column] for name, column in columns.items()}
    elif ending == ".fits":
        data = fits.getdata(path)
        missing = {name: np.isnan(data[name]).tolist() for name in _columns(LABEL_NAMES)}
    else:
        assert "nan" not in path.read_text("ascii").lower() or ending == ".vot"  # base64
        table = Table.read(path)
        missing = {name: np.ma.getmaskarray(table[name]).tolist() for name in table.colnames}
    for names, lost in ((LEARNT, False), (OTHERS, True)):
        for name in _columns(names):
            assert missing[name] == [lost] * SPECTRA, name


def _columns(names: tuple[str, ...]) -> list[str]:
    return [prefix + name for prefix in LABEL_PREFIXES for name in names]


def test_arrays_get_the_same_labels(place: Place) -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, size=(2, 8575))
    error, mask = np.full(noise.shape, 0.01), np.zeros(noise.shape, dtype=int)
    found = infer(1 + noise, error, mask, weights=place.folder / "w.pt", mc_samples=3)
    assert not found["flag_no_result"].any()
    for names, known in ((LEARNT, True), (OTHERS, False)):
        for name in _columns(names):
            assert (np.isfinite(found[name]) == known).all(), name


def test_what_is_not_learnt_makes_no_row_bad_and_no_condition_true(place: Place) -> None:
    table = Table.read(place.folder / "run.fits")
    assert not table["flag_no_result"].any()
    for number, condition in enumerate(
        ("e_k_h < 1e9", "not e_k_h < 1e9", "k_h is None", "k_h is not None", "fe_h is not None")
    ):
        path = place.folder / f"{number}.fits"
        place.run("export", "--out", path, "--where", condition)
        assert len(Table.read(path)) == (SPECTRA if number in (2, 4) else 0), condition


def test_a_page_shows_what_is_learnt_and_says_what_is_not(place: Place) -> None:
    place.run("report", "--out", place.folder / "r.html")
    page = (place.folder / "r.html").read_text("utf-8")
    assert page.count(TOLD) == 1
    heads = [f"{label.name} ({label.unit})</th>" for label in LABELS]
    assert [label.name for label, head in zip(LABELS, heads, strict=True) if head in page] == [
        name for name in LABEL_NAMES if name in LEARNT
    ]
    assert "nan" not in page.split("<tbody>")[1].split("</tbody>")[0]


def test_pictures_are_drawn_of_what_is_learnt(place: Place, tmp_path: Path) -> None:
    told = place.run("plot", "--out", tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} >= {"kiel", "magnesium", "planes", "flags"}
    assert told.count(TOLD) == 1
    assert "No spectrum has labels" not in told


@pytest.mark.parametrize("ending", [".fits", ".parquet", ".csv", ".ecsv", ".vot"])
def test_tables_are_read_again(place: Place, ending: str, tmp_path: Path) -> None:
    table = place.exported(ending)
    assert set(Sample.of_file(table).known) == set(LEARNT)
    spectrum = place.folder / "spectra" / "0.fits"
    place.run("plot", "--out", tmp_path, "--table", table, "--spectrum", spectrum)
    assert (tmp_path / "0-coadd.png").exists()
    _, visits = read_results_table(table)
    assert len(visits) == 24
    known = np.isfinite(visits.labels) & np.isfinite(visits.e_labels)
    assert (known == np.isin(LABEL_NAMES, LEARNT)).all()


def test_recalibration_leaves_what_is_not_there(place: Place) -> None:
    before = Table.read(place.exported(".fits"))
    factors = place.folder / "other.json"
    factors.write_text(json.dumps({name: {"scale": 2, "offset": 0.01} for name in LABEL_NAMES}))
    assert f"{SPECTRA}" in place.run("recalibrate", factors)
    after = Table.read(place.exported(".fits"))
    assert np.ma.getmaskarray(after["e_k_h"]).all()
    np.testing.assert_allclose(after["e_fe_h"], 2 * before["raw_e_fe_h"] + 0.01, rtol=1e-6)
