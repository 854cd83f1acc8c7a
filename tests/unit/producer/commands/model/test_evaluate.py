from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner, Result

from producer.commands.main import command_line
from tests.inputs.apstar_files import object_name, write_apstar
from worker.errors import UsageError
from worker.labels import LABEL_NAMES
from worker.network.checkpoint import write_checkpoint
from worker.results.noise_model import read_noise_model
from worker.settings import PREFIX, get_settings
from worker.training.new_network import new_network

KNOWN = ("teff", "fe_h")


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Spectra of twelve stars, of which a table knows two labels; and weights."""
    for name, value in {"MC_SAMPLES": 3, "LOAD_PROCESSES": 1, "DATA_ROOT": tmp_path}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", str(value))
    get_settings.cache_clear()
    for seed in range(12):
        write_apstar(tmp_path / "spectra" / f"{seed}.fits", n_visits=2, seed=seed)
    names = [object_name(seed) for seed in range(12)]
    table = Table({"obj": names, **{name: np.full(12, 1e4) for name in KNOWN}})
    table["M_H"] = np.zeros(12)
    table.write(tmp_path / "l.ecsv")
    write_checkpoint(tmp_path / "w.pt", new_network(0, (8, 8)), {})
    return tmp_path


def evaluate(survey: Path, *options: object) -> Result:
    app = command_line(["model"])
    arguments = [survey / "w.pt", survey / "spectra", "--labels", survey / "l.ecsv"]
    arguments += ["--out", survey / "w.json", "--device", "cpu", *options]
    return CliRunner().invoke(app, ["model", "evaluate", *map(str, arguments)])


def test_weights_get_a_noise_model_for_the_labels_that_are_known(survey: Path) -> None:
    before = (survey / "w.pt").read_bytes()
    result = evaluate(survey, "--kind", "coadd")
    assert result.exit_code == 0, result.output
    assert "12 spectra of 12 stars have labels. 0 spectra have none" in result.stdout
    assert "fitted to 6 spectra and tested on 6." in result.stdout
    assert {path.name for path in survey.iterdir()} == {
        *("spectra", "l.ecsv", "w.pt", "w.json", "w_report", "w.spectra.npy", "w.spectra.json"),
    }
    assert (survey / "w.pt").read_bytes() == before
    model = read_noise_model(survey / "w.json")
    of_known = np.isin(LABEL_NAMES, KNOWN)
    assert (model.scale[of_known] > 10).all()  # no label of theirs is near 10,000
    assert (model.scale[~of_known] == 1).all()
    numbers = json.loads((survey / "w_report" / "figures.json").read_text())["labels"]
    assert {name for name in LABEL_NAMES if numbers[name]["by_snr"]["all"]["n"]} == set(KNOWN)
    page = (survey / "w_report" / "report.md").read_text()
    assert "- evaluated: 12 spectra of 12 stars" in page
    assert "- of the table of labels: No values for logg, c_h, " in page
    strange = "Columns not understood as any of the 22 labels: M_H."
    assert strange in page
    assert strange in " ".join(result.stdout.split())
    assert str(survey) not in page


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "w.pkl"], r"it is written as a \.json file"),
        (["--out", "nowhere/w.json"], "its folder is missing"),
        (["--cache", "x.dat"], r"the cache is a \.npy file"),
        (["--labels", "none.fits"], "none.fits does not exist"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(
    survey: Path, options: list[str], text: str
) -> None:
    result = evaluate(survey, *options)
    with pytest.raises(UsageError, match=text):
        raise result.exception or AssertionError(result.output)
    assert not (survey / "w.spectra.npy").exists()


def test_the_command_line_starts_without_torch_and_matplotlib() -> None:
    script = (
        "import sys, producer.commands.model.evaluate; "
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
