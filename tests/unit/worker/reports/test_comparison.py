from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import typer
from astropy.table import Table
from typer.testing import CliRunner, Result

from producer.commands.model.train import train
from tests.inputs.apstar_files import object_name, write_apstar
from tests.inputs.training_data import gaussian_residuals, linear_spectra
from worker.comparison.evaluation import MOST_EVALUATED, evaluate, sample
from worker.comparison.noise import fit_noise_model
from worker.comparison.statistics import label_numbers
from worker.errors import UsageError
from worker.labels import LABEL_NAMES, LABELS
from worker.network.checkpoint import read_checkpoint, read_metadata, read_reference
from worker.network.engines.choose import open_engine
from worker.reports.comparison import Account, write_report
from worker.results.noise_model import SnrFactors, identity, read_noise_model
from worker.results.snr import snr_bins
from worker.settings import PREFIX, get_settings
from worker.training.new_network import new_network
from worker.training.provenance import command_line
from worker.version import software_version

PICTURES = ("predicted.png", "residuals.png", "diagram.png", "calibration.png", "losses.png")


def account() -> Account:
    losses = [
        {"training": 1.0 / (epoch + 1), "validation": 1.2 / (epoch + 1), "learning_rate": 1e-3}
        for epoch in range(4)
    ]
    return Account(
        "astronn-stream model train x",
        {"epochs": 4},
        {"held out": "9"},
        losses,
        3,
        ("Said.",),
        "Training report",
    )


def test_the_numbers_of_a_label_are_those_of_its_residuals() -> None:
    evaluated = gaussian_residuals(3000)
    factors = SnrFactors(np.array([100.0]), np.array([1.5]))
    noise_model = replace(identity(), by_snr=(factors,) * len(LABELS))
    numbers = label_numbers(evaluated, noise_model)["mg_h"]
    position = LABEL_NAMES.index("mg_h")
    rows = (evaluated.snr >= 30) & (evaluated.snr < 75) & np.isfinite(evaluated.known[:, position])
    residual = (evaluated.predicted - evaluated.known)[rows, position]
    e_label = evaluated.e_predicted[rows, position]
    tested = ~evaluated.calibrating[rows]
    of_bin = numbers["by_snr"]["30-75"]
    assert of_bin["n"] == rows.sum()
    assert of_bin["n_tested"] == tested.sum()
    assert of_bin["bias"] == pytest.approx(np.median(residual))
    assert of_bin["scatter"] == pytest.approx(0.15, rel=0.15)
    assert of_bin["rms"] == pytest.approx(np.sqrt(np.mean(residual**2)))
    assert of_bin["median_e"] == pytest.approx(1.5 * np.median(e_label))
    for name, scale in (("within_before", 1.0), ("within_after", 1.5)):
        pulls = np.abs(residual / (scale * e_label))[tested]
        assert of_bin[name] == pytest.approx([(pulls < k).mean() for k in (1, 2, 3)])


def test_every_spectrum_with_an_snr_is_in_one_bin() -> None:
    snr = np.array([0.5, 29.9, 30.0, 75.0, 149.0, 150.0, 1000.0, np.nan])
    bins = snr_bins(snr)
    assert list(bins) == ["0-30", "30-75", "75-150", "> 150"]
    assert np.stack(list(bins.values())).sum(axis=0).tolist() == [1] * 7 + [0]


def test_the_evaluation_is_the_streams_and_halves_the_stars() -> None:
    data = linear_spectra(20)
    model = new_network(0, (8, 8)).eval().requires_grad_(False)
    engine = open_engine(model, mc_samples=3, seed=0)
    chosen = np.arange(4, 16)
    done: list[int] = []
    evaluated = evaluate(engine, data, chosen, done.append)
    assert sum(done) == 12
    labels, e_labels = engine(data.flux[4:16], data.keys[4:16])
    np.testing.assert_array_equal(evaluated.predicted, labels)
    np.testing.assert_array_equal(evaluated.e_predicted, e_labels)
    np.testing.assert_array_equal(evaluated.known, data.labels[4:16])
    stars = np.array(data.stars[4:16])
    halves = set(stars[evaluated.calibrating]), set(stars[~evaluated.calibrating])
    assert not halves[0] & halves[1]
    assert len(halves[0]) == len(halves[1]) == 3
    partly = evaluate(engine, data, chosen, done.append, ("logg", "k_h"))
    for found, expected in ((partly.predicted, labels), (partly.e_predicted, e_labels)):
        assert np.isnan(found[:, [1, 12]]).all()
        others = [position for position in range(22) if position not in (1, 12)]
        np.testing.assert_array_equal(found[:, others], expected[:, others])


@pytest.mark.parametrize("n", [10, MOST_EVALUATED, MOST_EVALUATED + 1, 10 * MOST_EVALUATED])
def test_a_sample_is_spread_over_all_and_small_enough(n: int) -> None:
    chosen = sample(np.arange(n))
    assert min(n, MOST_EVALUATED // 2) <= len(chosen) <= MOST_EVALUATED
    assert chosen[-1] > 0.99 * n - 2
    assert len(set(np.diff(chosen))) == 1


def test_a_report_has_its_page_numbers_and_pictures_and_changes_no_settings(
    tmp_path: Path,
) -> None:
    evaluated = gaussian_residuals(200)
    evaluated.known[:, 12] = np.nan  # a label that no held-out star has
    before = dict(mpl.rcParams)
    numbers = label_numbers(evaluated, fit_noise_model(evaluated))
    write_report(tmp_path / "report", account(), evaluated, numbers)
    assert dict(mpl.rcParams) == before
    page = (tmp_path / "report" / "report.md").read_text()
    for picture in PICTURES:
        content = (tmp_path / "report" / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert f"]({picture})" in page
    written = json.loads((tmp_path / "report" / "figures.json").read_text())
    assert written["labels"] == numbers
    assert written["losses"] == account().losses
    assert numbers["k_h"]["by_snr"]["all"]["scatter"] is None
    rows = [line for line in page.splitlines() if line.startswith("| mg_h | dex |")]
    every = numbers["mg_h"]["by_snr"]["all"]
    assert len(rows) == 1
    assert f"| {every['n']} | {every['bias']:.3f} | {every['scatter']:.3f} |" in rows[0]
    # Overall, scatter by S/N, by log g, Teff and [Fe/H], calibration by S/N, factors by S/N.
    assert page.count("| mg_h") == 7
    assert page.startswith("# Training report")


def test_labels_that_are_not_learnt_are_left_out_of_a_report_but_for_a_sentence(
    tmp_path: Path,
) -> None:
    evaluated = replace(gaussian_residuals(200), not_learnt=("logg", "k_h"))
    evaluated.predicted[:, [1, 12]] = np.nan
    evaluated.e_predicted[:, [1, 12]] = np.nan
    model = fit_noise_model(evaluated)
    assert [model.scale[12], model.by_snr[12]] == [1.0, None]
    numbers = label_numbers(evaluated, model)
    write_report(tmp_path, account(), evaluated, numbers)
    assert set(numbers) == set(LABEL_NAMES) - {"logg", "k_h"}
    page = (tmp_path / "report.md").read_text()
    assert page.count("2 of 22 labels are not learnt: logg, k_h.") == 1
    assert page.count("| mg_h") == 7
    assert "| k_h" not in page
    assert json.loads((tmp_path / "figures.json").read_text())["not_learnt"] == ["logg", "k_h"]


def test_a_report_of_weights_that_were_there_tells_of_no_training(tmp_path: Path) -> None:
    evaluated = gaussian_residuals(200)
    nothing_trained = replace(account(), losses=[], best_epoch=0, title="Evaluation report")
    numbers = label_numbers(evaluated, fit_noise_model(evaluated))
    write_report(tmp_path, nothing_trained, evaluated, numbers)
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# Evaluation report")
    assert "epoch" not in page.replace("epochs: 4", "")
    assert not (tmp_path / "losses.png").exists()


def test_a_report_of_hardly_any_spectra_can_be_drawn(tmp_path: Path) -> None:
    evaluated = gaussian_residuals(2)
    evaluated.snr[:] = np.nan
    write_report(tmp_path, account(), evaluated, label_numbers(evaluated, identity()))
    assert (tmp_path / "report.md").exists()


def test_a_command_line_shows_no_folders_of_the_machine() -> None:
    arguments = ["model", "train", "/home/x/spectra", "--labels=/data/l.fits", "--out", "a/b.pt"]
    assert command_line(arguments) == (
        "astronn-stream model train spectra --labels=l.fits --out a/b.pt"
    )


# The command.


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {"MC_SAMPLES": 3, "LOAD_PROCESSES": 1, "DATA_ROOT": tmp_path}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", str(value))
    get_settings.cache_clear()
    rng = np.random.default_rng(0)
    for seed in range(12):
        write_apstar(tmp_path / "spectra" / f"{seed}.fits", n_visits=2, seed=seed)
    labels = {name: rng.normal(size=12) for name in LABEL_NAMES}
    table = Table({"obj": [object_name(seed) for seed in range(12)], **labels})
    table.write(tmp_path / "labels.ecsv")
    return tmp_path


def run(survey: Path, *options: object) -> Result:
    app = typer.Typer()
    app.command()(train)
    arguments = [survey / "spectra", "--labels", survey / "labels.ecsv", "--out", survey / "w.pt"]
    arguments += ["--device", "cpu", "--epochs", 1, "--validation", 0.4, *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_leaves_weights_noise_model_report_and_cache(survey: Path) -> None:
    result = run(
        survey, "--kind", "coadd", "--half", "--description", "simulated", "--purpose", "t"
    )
    assert result.exit_code == 0, result.output
    assert "12 spectra, 0 that cannot be read." in result.stdout
    assert {path.name for path in survey.iterdir()} == {
        *("spectra", "labels.ecsv", "w.pt", "w.corrections.json", "w_report"),
        *("w.spectra.npy", "w.spectra.json"),
    }
    assert {path.name for path in (survey / "w_report").iterdir()} == {
        *PICTURES,
        "report.md",
        "figures.json",
    }
    model = read_checkpoint(survey / "w.pt")
    assert model.architecture.dense == (192, 96)
    metadata = read_metadata(survey / "w.pt")
    assert metadata["origin"] == "astronn-stream model train"
    assert metadata["trained_on"]["description"] == "simulated"
    assert metadata["trained_on"]["kind"] == "coadd"
    assert metadata["purpose"] == "t"
    assert metadata["settings"]["epochs"] == metadata["epochs"] == 1
    assert metadata["software_version"] == software_version()
    held_out = metadata["validation"]["spectra"]
    assert metadata["trained_on"]["spectra"] + held_out == 12
    assert set(metadata["validation"]["scatter"]) == set(LABEL_NAMES)
    assert str(survey) not in json.dumps(metadata)
    assert str(survey) not in (survey / "w_report" / "report.md").read_text()
    read_noise_model(survey / "w.corrections.json")
    assert "The weights will not tell spectra that are unlike these. 10 spectra of" in result.stdout
    assert read_reference(survey / "w.pt") is None


def test_weights_know_the_spectra_that_they_were_trained_on(survey: Path) -> None:
    for seed in range(12):
        write_apstar(survey / "spectra" / f"{seed}.fits", n_visits=28, seed=seed)
    result = run(survey)
    assert result.exit_code == 0, result.output
    metadata, reference = read_metadata(survey / "w.pt"), read_reference(survey / "w.pt")
    assert reference is not None
    assert int(reference.spectra[0]) == metadata["trained_on"]["spectra"] >= 200
    assert metadata["reference"]["spectra"] == metadata["trained_on"]["spectra"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "w.weights"], r"weights are written as a \.pt file"),
        (["--out", "nowhere/w.pt"], "its folder is missing"),
        (["--report", "/dev/null/r"], "/dev/null/r cannot be made or written"),
        (["--cache", "x.dat"], r"the cache is a \.npy file"),
        (["--labels", "none.fits"], "none.fits does not exist"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(
    survey: Path, options: list[str], text: str
) -> None:
    result = run(survey, *options)
    with pytest.raises(UsageError, match=text):
        raise result.exception or AssertionError(result.output)
    assert not (survey / "w.spectra.npy").exists()


def test_the_command_line_starts_without_torch_and_matplotlib() -> None:
    script = (
        "import sys, producer.commands.model.train; "
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
