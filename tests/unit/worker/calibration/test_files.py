from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import shared
from tests.inputs.corrections_files import refusal
from tests.inputs.repeat_surveys import survey
from worker.calibration.calibration import LabelCalibration, calibrate, noise_model_of
from worker.calibration.files import corrections_json, corrections_pickle
from worker.calibration.repeats import comparable, pairs_of
from worker.calibration.widths import LabelPulls, all_pulls
from worker.labels import LABEL_NAMES
from worker.reports.calibration import PAGE, write_report
from worker.results.noise_model import NoiseModel, SnrFactors, read_noise_model

ABOUT = {"weights_name": "own.pt", "tag": ""}


@pytest.fixture(scope="module")
def result() -> tuple[list[LabelCalibration], list[LabelPulls]]:
    """A calibration with factors by S/N; one label could not be calibrated."""
    repeats = comparable(survey(0, 200, 4))
    repeats.raw_e_labels[:, 3] = np.nan
    pairs = pairs_of(repeats, np.random.default_rng(0))
    labels = list(calibrate(repeats, pairs, times=50, seed=0, by_snr=True))
    repeats.raw_e_labels[:, 3] = 0.1
    return labels, list(all_pulls(repeats, pairs, noise_model_of(labels)))


def test_the_json_is_read_as_the_noise_model_that_was_fitted(
    tmp_path: Path, result: tuple[list[LabelCalibration], list[LabelPulls]]
) -> None:
    labels, pulls = result
    text = corrections_json(labels, pulls, ABOUT)
    path = tmp_path / "c.json"
    path.write_text(text)
    model, fitted = read_noise_model(path), noise_model_of(labels)
    assert model.sha256 == hashlib.sha256(text.encode()).hexdigest()
    raw_e = np.random.default_rng(0).uniform(0.01, 0.1, (50, 22))
    snr = np.concatenate([np.linspace(1, 500, 48), [np.nan, 0.0]])
    np.testing.assert_array_equal(model.apply(raw_e, snr), fitted.apply(raw_e, snr))
    assert (model.scale[3], model.offset[3], model.by_snr[3]) == (1, 0, None)
    assert text == corrections_json(labels, pulls, ABOUT)


def test_the_json_says_how_well_it_is_known(
    result: tuple[list[LabelCalibration], list[LabelPulls]],
) -> None:
    content = json.loads(corrections_json(*result, ABOUT), parse_constant=pytest.fail)
    assert list(content) == [*LABEL_NAMES, "about"]
    for name, label in zip(LABEL_NAMES, result[0], strict=True):
        entry = content[name]
        if name == "c_1_h":
            assert entry["scale_interval"] is None
            assert "too few" in entry["note"]
            continue
        low, high = entry["scale_interval"]
        assert low < label.scale < high
        pairs, before, after = entry["widths"]["all"]
        assert pairs == entry["pairs"] > 0
        assert before != after == pytest.approx(1, abs=0.12)
        assert len(entry["by_snr"]["factor"]) == len(entry["by_snr"]["error"])
    assert content["about"]["tag"] == ""
    assert any("repeatability" in note for note in content["about"]["notes"])


def test_the_pickle_has_the_peers_layout_and_the_reader_takes_it(
    tmp_path: Path, result: tuple[list[LabelCalibration], list[LabelPulls]]
) -> None:
    labels, pulls = result
    path = tmp_path / "c.pkl"
    path.write_bytes(corrections_pickle(labels, pulls))
    model = read_noise_model(path)
    assert model.scale.tolist() == [each.scale for each in labels]
    assert model.offset.tolist() == [each.offset for each in labels]
    assert not model.depends_on_snr
    theirs, ours = (
        _unpickled(each) for each in (shared("corrections", "AstroNN_corrections.pkl"), path)
    )
    assert ours[0].keys() == theirs[0].keys()
    for name in LABEL_NAMES:
        kinds = {key: type(value) for key, value in ours[0][name].items()}
        assert kinds == {key: type(value) for key, value in theirs[0][name].items()}
        best = ours[0][name]["best_index"]
        assert ours[0][name]["offset"] == ours[0][name]["offsets"][best]
        assert ours[0][name]["best_z_pdf"].shape == theirs[0][name]["best_z_pdf"].shape
    np.testing.assert_allclose(ours[1]["bin_edges"], theirs[1]["bin_edges"])
    np.testing.assert_allclose(ours[1]["reference_pdf"], theirs[1]["reference_pdf"])
    pdf = ours[0]["fe_h"]["best_z_pdf"]
    assert (pdf * np.diff(ours[1]["bin_edges"])).sum() == pytest.approx(1)


def _unpickled(path: Path) -> Any:
    return pickle.loads(path.read_bytes())  # noqa: S301 - files of ours and of the peers


def test_the_report_shows_every_label(
    tmp_path: Path, result: tuple[list[LabelCalibration], list[LabelPulls]]
) -> None:
    write_report(tmp_path / "report", ["stars: 200"], *result)
    page = (tmp_path / "report" / PAGE).read_text(encoding="utf-8")
    for picture in ("z.png", "widths.png"):
        assert f"({picture})" in page
        assert (tmp_path / "report" / picture).stat().st_size > 20_000
    for name in LABEL_NAMES:
        lines = [line for line in page.splitlines() if line.startswith(f"| {name} ")]
        assert len(lines) == (2 if name == "c_1_h" else 3)  # scale, widths by S/N, factors
    assert len({line.count("|") for line in page.splitlines() if line.startswith("| teff")}) == 3


def test_the_report_shows_factors_whose_errors_nobody_knows(tmp_path: Path) -> None:
    repeats = comparable(survey(0, 5, 60))
    pairs = pairs_of(repeats, np.random.default_rng(0))
    labels = list(calibrate(repeats, pairs, times=20, seed=0, by_snr=True))
    pulls = list(all_pulls(repeats, pairs, noise_model_of(labels)))
    write_report(tmp_path, ["stars: 5"], labels, pulls)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| teff ")]
    assert len(lines) == 3
    assert "±" not in "".join(lines)
    content = json.loads(corrections_json(labels, pulls, ABOUT))
    assert content["teff"]["scale_interval"] is None
    assert content["teff"]["by_snr"].keys() == {"snr", "factor"}


# --- Factors by S/N in a noise model -------------------------------------------------------


def model_with(factors: SnrFactors | None) -> NoiseModel:
    return NoiseModel(np.full(22, 2.0), np.full(22, 0.5), None, (factors, *[None] * 21))


def test_a_factor_is_linear_between_its_places_and_constant_beyond() -> None:
    factors = SnrFactors(np.array([10.0, 20.0, 80.0]), np.array([2.0, 1.0, 0.5]))
    snr = np.array([1.0, 10.0, 15.0, 20.0, 50.0, 80.0, 900.0, np.inf])
    assert factors.at(snr).tolist() == [2.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.5, 0.5]
    # As DR17 writes a single visit's, and where a file has none.
    assert factors.at(np.array([0.0, -1.0, np.nan])).tolist() == [1.0, 1.0, 1.0]


def test_without_factors_snr_changes_no_bit() -> None:
    raw_e = np.random.default_rng(0).uniform(0.01, 300, (40, 22))
    snr = np.linspace(1, 400, 40)
    plain = NoiseModel(np.linspace(0.3, 2, 22), np.linspace(-0.01, 0.1, 22), None)
    np.testing.assert_array_equal(plain.apply(raw_e, snr), plain.scale * raw_e + plain.offset)
    np.testing.assert_array_equal(model_with(None).apply(raw_e, snr), 2.0 * raw_e + 0.5)


def test_a_factor_multiplies_its_own_label_alone() -> None:
    model = model_with(SnrFactors(np.array([10.0]), np.array([3.0])))
    assert model.depends_on_snr
    raw_e = np.ones((2, 22))
    found = model.apply(raw_e, np.array([50.0, np.nan]))
    assert found[:, 0].tolist() == [7.5, 2.5]
    assert (found[:, 1:] == 2.5).all()
    assert (model.apply(raw_e) == 2.5).all()  # S/N that is not known
    np.testing.assert_array_equal(raw_e, 1)


@pytest.mark.parametrize(
    "by_snr",
    [
        None,
        [],
        {"snr": [10, 20]},
        {"snr": [], "factor": []},
        {"snr": [10, 20], "factor": [1.0]},
        {"snr": [20, 10], "factor": [1.0, 1.0]},
        {"snr": [10, 10], "factor": [1.0, 1.0]},
        {"snr": [0, 10], "factor": [1.0, 1.0]},
        {"snr": [10, 20], "factor": [1.0, 0.0]},
        {"snr": [10, 20], "factor": [1.0, -2.0]},
        {"snr": [10, float("nan")], "factor": [1.0, 1.0]},
        {"snr": [10, 20], "factor": [1.0, float("inf")]},
        {"snr": [10, "x"], "factor": [1.0, 1.0]},
        {"snr": 10, "factor": 1.0},
        {"snr": [10], "factor": [10**400]},
    ],
)
def test_odd_factors_by_snr_are_refused(tmp_path: Path, by_snr: Any) -> None:
    content: dict[str, Any] = {name: {"scale": 1.0, "offset": 0.0} for name in LABEL_NAMES}
    content["ti_2_h"]["by_snr"] = by_snr
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    assert "ti_2_h" in refusal(path)
