from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.inputs.training_data import gaussian_residuals
from worker.calibration.calibration import ONE_SIGMA
from worker.comparison.evaluation import Evaluated
from worker.comparison.noise import fit_noise_model, write_noise_model
from worker.comparison.statistics import label_numbers
from worker.labels import LABEL_NAMES, LABELS
from worker.results.noise_model import read_noise_model
from worker.results.snr import LEAST_FREEDOM, SNR_PLACES, snr_bins

Floats = NDArray[np.float64]


def by_snr(evaluated: Evaluated, factor: Floats, snr: Floats) -> Evaluated:
    """The same with residuals ``factor`` times as large, at another S/N."""
    predicted = evaluated.known + factor[:, np.newaxis] * evaluated.residuals
    return replace(evaluated, predicted=predicted, snr=snr)


def uneven(n: int = 12_000) -> tuple[Evaluated, Floats]:
    """Residuals that are too large at low S/N and too small at high; as much as is true."""
    snr = np.exp(np.random.default_rng(8).uniform(np.log(8), np.log(400), n))
    factor = np.interp(snr, SNR_PLACES, [3.0, 2.0, 1.2, 0.8, 0.6, 0.5])
    return by_snr(gaussian_residuals(n, 1.0, bias=0.0), factor, snr), factor


def test_one_sigma_is_one_sigma_at_each_snr_on_the_half_that_was_not_fitted() -> None:
    evaluated, _ = uneven()
    numbers = label_numbers(evaluated, fit_noise_model(evaluated))
    for name in LABEL_NAMES:
        for of_bin in numbers[name]["by_snr"].values():
            bound = 5 * np.sqrt(2 * 0.22 / of_bin["n_tested"])  # both halves are random
            assert of_bin["within_after"][0] == pytest.approx(ONE_SIGMA, abs=bound)
    before = numbers["mg_h"]["by_snr"]
    assert before["0-30"]["within_before"][0] < 0.4
    assert before["> 150"]["within_before"][0] > 0.9


def test_the_factors_are_found_and_other_spectra_are_not_looked_at() -> None:
    evaluated, factor = uneven()
    model = fit_noise_model(evaluated)
    ratio = model.apply(np.ones((len(factor), len(LABELS))), evaluated.snr) / factor[:, None]
    np.testing.assert_allclose(ratio, 1.0, atol=0.25)  # 800 spectra at each of 6 places
    np.testing.assert_allclose(np.median(ratio, axis=0), 1.0, atol=0.05)
    elsewhere = np.where(evaluated.calibrating[:, None], evaluated.predicted, 1e6)
    again = fit_noise_model(replace(evaluated, predicted=elsewhere))
    np.testing.assert_array_equal(again.scale, model.scale)
    for one, other in zip(again.by_snr, model.by_snr, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.factor, other.factor)


def test_around_each_place_the_same_weight_lies_within_one_sigma() -> None:
    evaluated, _ = uneven(3000)
    model = fit_noise_model(evaluated)
    e_labels = model.apply(evaluated.e_predicted, evaluated.snr)
    rows = evaluated.calibrating & np.isfinite(evaluated.residuals[:, 4])
    inside = (np.abs(evaluated.residuals) < e_labels)[rows, 4]
    for corner in np.eye(len(SNR_PLACES)):
        weight = np.interp(evaluated.snr[rows], SNR_PLACES, corner)
        part = weight @ inside / weight.sum()
        assert part == pytest.approx(ONE_SIGMA, abs=2 / weight.sum())


def test_places_with_few_spectra_are_left_to_their_neighbours() -> None:
    n = 2000
    snr = np.where(np.arange(n) % 100 < 4, 11.0, np.linspace(30, 90, n))
    good = gaussian_residuals(n, 1.0, bias=0.0)
    evaluated = by_snr(good, np.where(snr < 20, 50.0, 1.0), snr)
    assert 0 < (evaluated.calibrating & (snr < 20)).sum() < 2 * LEAST_FREEDOM
    model = fit_noise_model(evaluated)
    for factors in model.by_snr:
        assert factors is not None
        assert factors.snr.tolist() == [40.0, 80.0]
    at_the_places = model.apply(np.ones((2, len(LABELS))), np.array([40.0, 80.0]))
    np.testing.assert_allclose(at_the_places, 1.1, atol=0.25)  # one in twelve is faint at the first


@pytest.mark.parametrize("snr", [np.nan, 0.0, 100.0])
def test_of_one_snr_or_none_there_is_a_scale_alone(snr: float) -> None:
    evaluated = gaussian_residuals()
    model = fit_noise_model(replace(evaluated, snr=np.full_like(evaluated.snr, snr)))
    assert not model.depends_on_snr
    np.testing.assert_allclose(model.scale, 2.0, rtol=0.2)  # the bias of 0.03 widens it a little


@pytest.mark.parametrize("unknown", [np.nan, 0.0])
def test_spectra_of_unknown_snr_say_nothing_of_any_snr(unknown: float) -> None:
    evaluated, _ = uneven(3000)
    without = np.arange(3000) % 10 > 5
    snr = np.where(without, unknown, evaluated.snr)
    factor = np.where(without, 50.0, 1.0)
    known = np.where(without[:, np.newaxis], np.nan, evaluated.known)
    places = np.array(SNR_PLACES)
    found, expected = (
        fit_noise_model(each).apply(np.ones((len(places), len(LABELS))), places)
        for each in (by_snr(evaluated, factor, snr), replace(evaluated, known=known))
    )
    np.testing.assert_allclose(found, expected, rtol=0.06)  # it ends within a spectrum's weight
    np.testing.assert_allclose(np.median(found / expected, axis=1), 1.0, rtol=0.01)


def test_spectra_of_unknown_snr_have_the_scale_that_all_bins_decide_alike() -> None:
    evaluated = gaussian_residuals(8000)
    faint = np.arange(8000) % 10 < 8  # four in five, with residuals three times as large
    snr = np.where(faint, 20.0, 200.0)
    evaluated = by_snr(evaluated, np.where(faint, 3.0, 1.0), snr)
    assert {int(rows.sum()) for rows in snr_bins(snr).values()} == {6400, 1600, 0}
    model = fit_noise_model(evaluated)
    within = np.abs(evaluated.residuals) < model.apply(evaluated.e_predicted, np.full(8000, np.nan))
    known = np.isfinite(evaluated.residuals[:, 0]) & evaluated.calibrating
    parts = [np.mean(within[known & each, 0]) for each in (faint, ~faint)]
    assert np.mean(parts) == pytest.approx(ONE_SIGMA, abs=0.005)
    assert np.mean(within[known, 0]) < 0.6


def test_a_label_that_few_stars_have_keeps_its_uncertainty() -> None:
    evaluated = gaussian_residuals(40)
    evaluated.known[:, 7] = np.nan
    evaluated.known[:3, 7] = 0.5
    model = fit_noise_model(evaluated)
    assert (model.scale[7], model.by_snr[7]) == (1, None)
    assert (model.scale[:7] > 1).all()


def test_labels_that_are_exactly_right_keep_their_uncertainty(tmp_path: Path) -> None:
    evaluated = gaussian_residuals()
    evaluated.predicted[:, 3] = evaluated.known[:, 3]
    write_noise_model(tmp_path / "c.json", fit_noise_model(evaluated))
    model = read_noise_model(tmp_path / "c.json")
    factors = model.by_snr[3]
    assert factors is not None
    assert [model.scale[3], *factors.factor] == [1.0] * (1 + len(factors.snr))


def test_the_streams_own_reader_reads_what_was_fitted(tmp_path: Path) -> None:
    evaluated, _ = uneven(3000)
    evaluated.known[:, 7] = np.nan
    fitted = fit_noise_model(evaluated)
    path = tmp_path / "out.corrections.json"
    write_noise_model(path, fitted)
    assert "by_snr" not in json.loads(path.read_text())[LABEL_NAMES[7]]
    read = read_noise_model(path)
    arguments = evaluated.e_predicted, np.linspace(-1, 500, len(evaluated.snr))
    np.testing.assert_array_equal(read.apply(*arguments), fitted.apply(*arguments))
