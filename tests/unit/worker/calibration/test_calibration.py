from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.inputs.repeat_surveys import SCALES, offsets, survey, typical
from worker.calibration.calibration import LabelCalibration, calibrate, noise_model_of, width
from worker.calibration.pair_fit import Differences, fit
from worker.calibration.repeats import Pairs, Visits, comparable, pairs_of
from worker.calibration.widths import all_pulls
from worker.labels import LABELS

Floats = NDArray[np.float64]


def paired(visits: Visits) -> tuple[Visits, Pairs]:
    repeats = comparable(visits)
    return repeats, pairs_of(repeats, np.random.default_rng(0))


def calibrated(visits: Visits, *, by_snr: bool = False) -> list[LabelCalibration]:
    return list(calibrate(*paired(visits), times=200, seed=0, by_snr=by_snr))


def widths(visits: Visits, labels: list[LabelCalibration]) -> list[dict[str, float]]:
    """The widths of z after the calibration: of all, and by S/N."""
    model = noise_model_of(labels)
    return [
        {name: after for name, (_, _, after) in each.widths().items()}
        for each in all_pulls(*paired(visits), model)
    ]


def assert_recovered(labels: list[LabelCalibration]) -> None:
    for label, each, scale, offset in zip(LABELS, labels, SCALES, offsets(), strict=True):
        interval = each.interval("scale")
        assert interval is not None, label.name
        assert interval[0] <= scale <= interval[1], label.name
        interval = each.interval("offset")
        assert interval is not None, label.name
        assert interval[0] <= offset <= interval[1], label.name


# --- What was put in comes out -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_scale_and_offset_of_all_labels_are_recovered(seed: int) -> None:
    visits = survey(seed, 1500, 4)
    labels = calibrated(visits)
    assert_recovered(labels)
    # 4500 degrees of freedom: one sigma of a width is 1.1 %, of the best scale 2.4 %.
    assert max(abs(each["all"] - 1) for each in widths(visits, labels)) < 0.03
    assert max(each.scale_error / each.scale for each in labels if each.scale_error) < 0.1
    assert max(each.outliers for each in labels) < 0.005
    assert not any(each.note for each in labels)


@pytest.mark.parametrize("seed", range(3))
def test_outliers_do_not_draw_them_off(seed: int) -> None:
    labels = calibrated(survey(seed, 1500, 4, outliers=0.05))
    assert_recovered(labels)
    # One visit of a pair or the other: 10 per cent, less stars that they drive into the edges.
    for each in labels:
        assert 0.04 < each.outliers < 0.1


def test_intervals_are_as_wide_as_they_should_be() -> None:
    """Over many small surveys the error of the fit is one of its standard deviations."""
    off = []
    for seed in range(12):
        labels = calibrated(survey(seed, 80, 5))
        for each, scale, offset in zip(labels, SCALES, offsets(), strict=True):
            if each.scale_error and each.offset_error:
                off.append((each.scale - scale) / each.scale_error)
                off.append((each.offset - offset) / each.offset_error)
    assert len(off) > 450
    assert 0.85 < np.std(off) < 1.15
    assert np.mean(np.abs(off) < 1) == pytest.approx(0.68, abs=0.07)
    assert abs(np.mean(off)) < 0.25


@pytest.mark.parametrize(("stars", "visits"), [(60, 5), (300, 2), (12, 40)])
def test_few_visits_give_wide_intervals_that_hold(stars: int, visits: int) -> None:
    labels = calibrated(survey(7, stars, visits))
    assert sum(bool(each.note) for each in labels) <= 4
    for each, scale, offset in zip(labels, SCALES, offsets(), strict=True):
        interval = each.interval("scale")
        assert interval is not None
        if each.note:  # by chance at the bound
            assert each.offset < 0
            continue
        assert interval[0] < scale < interval[1]
        assert each.offset_error is not None
        assert abs(each.offset - offset) < 3.26 * each.offset_error
        assert each.correlation is not None
        assert each.correlation < -0.5  # the one makes up for the other


def test_all_pairs_of_equal_uncertainty_give_the_mean_square() -> None:
    """Without outliers and slopes the fit has an answer that can be written down."""
    random = np.random.default_rng(2)
    data = Differences(random.normal(size=3000) ** 2, np.ones(3000), np.arange(3000))

    def constant(parameters: Floats) -> tuple[Floats, Floats]:
        return np.full(3000, np.exp(2 * parameters[0])), np.ones((3000, 1))

    bound = np.array([np.inf])
    fitted = fit(data, constant, np.zeros(1), -bound, bound)
    assert np.exp(fitted.parameters[0]) == pytest.approx(np.sqrt(data.squared.mean()), rel=1e-3)


def test_the_same_seed_gives_the_same_and_another_other_intervals() -> None:
    visits = survey(0, 80, 4)
    once, again = (calibrated(visits) for _ in range(2))
    assert once == again
    other = list(calibrate(*paired(visits), times=200, seed=1))
    assert other[3].scale == once[3].scale
    assert other[3].scale_error != once[3].scale_error


# --- By S/N --------------------------------------------------------------------------------


def fainter(snr: Floats) -> Floats:
    """Noise that the network does not know of: twice too much at S/N 10, half at 160."""
    return np.asarray(np.interp(snr, [10, 20, 40, 80, 160], [2.0, 1.4, 1.0, 0.7, 0.5]))


def test_one_factor_is_wrong_at_both_ends_and_factors_by_snr_are_right() -> None:
    visits = survey(3, 1200, 4, by_snr=fainter)
    plain = widths(visits, calibrated(visits))
    assert min(each["0-30"] for each in plain) > 1.2
    assert max(each["> 150"] for each in plain) < 0.8
    labels = calibrated(visits, by_snr=True)
    for each in widths(visits, labels):
        for name in ("all", "0-30", "30-75", "75-150", "> 150"):
            assert each[name] == pytest.approx(1, abs=0.1), name
        assert each["all"] == pytest.approx(1, abs=0.03)


def test_factors_by_snr_are_recovered() -> None:
    visits = survey(4, 1200, 4, by_snr=fainter)
    off = []
    for each, scale, offset, e in zip(
        calibrated(visits, by_snr=True), SCALES, offsets(), typical(), strict=True
    ):
        assert each.by_snr is not None
        assert each.by_snr.error is not None
        assert each.by_snr.snr.tolist() == [10, 20, 40, 80, 160, 320]
        # Scale and offset alone take a part of it over; what counts is the product.
        rest = (each.scale * e + each.offset) / (scale * e + offset)
        factors = fainter(each.by_snr.snr) / rest
        off += ((each.by_snr.factor - factors) / each.by_snr.error).tolist()
    assert 0.8 < np.std(off) < 1.3


def test_what_has_no_snr_has_no_factors() -> None:
    visits = survey(0, 100, 4)
    labels = calibrated(replace(visits, snr=np.full(len(visits), np.nan)), by_snr=True)
    assert [each.by_snr for each in labels] == [None] * len(LABELS)
    assert all(each.scale != 1 for each in labels)


# --- What cannot be calibrated -------------------------------------------------------------


def test_too_few_pairs_leave_a_label_as_it_is() -> None:
    for each in calibrated(survey(0, 9, 4)):  # 27 degrees of freedom, less the edges
        assert (each.scale, each.offset) == (1, 0)
        assert "too few" in each.note
        assert each.interval("scale") is None


def test_one_star_with_many_visits_is_enough_to_be_used() -> None:
    for each, scale in zip(calibrated(survey(0, 1, 200)), SCALES, strict=True):
        assert each.stars == 1
        assert each.scale == pytest.approx(scale, rel=0.8)
        assert each.scale > 0


@pytest.mark.parametrize(("stars", "visits"), [(1, 200), (9, 40)])
def test_of_few_stars_nobody_can_tell_how_well_it_is_known(stars: int, visits: int) -> None:
    """A bootstrap over one star gives an error of zero."""
    for each in calibrated(survey(0, stars, visits), by_snr=True):
        assert each.scale != 1
        assert (each.scale_error, each.offset_error, each.correlation) == (None, None, None)
        assert each.interval("scale") is None
        assert each.by_snr is not None
        assert each.by_snr.error is None
        assert each.note.endswith("too few stars to tell how well it is known")


def test_uncertainties_that_hardly_vary_give_a_scale_alone() -> None:
    visits = survey(0, 300, 4, varies=0.01)
    for each, scale, share in zip(calibrated(visits), SCALES, offsets() / typical(), strict=True):
        assert each.offset == 0
        assert each.offset_error is None
        assert "varies too little" in each.note
        assert each.scale == pytest.approx(scale + share, rel=0.1)


def test_visits_that_do_not_differ_leave_a_label_as_it_is() -> None:
    visits = survey(0, 100, 4)
    labels = visits.labels.copy()
    labels[:, 6] = visits.star * 0.001 - 1.5
    each = calibrated(replace(visits, labels=labels))[6]
    assert (each.scale, each.offset, each.note) == (
        1,
        0,
        "repeat visits do not differ: left as it is",
    )


def test_uncertainties_that_are_none_do_not_count() -> None:
    visits = survey(0, 300, 4)
    raw_e = visits.raw_e_labels.copy()
    raw_e[::7, 2], raw_e[1::7, 2], raw_e[2::7, 2] = np.nan, 0.0, np.inf
    label = calibrated(replace(visits, raw_e_labels=raw_e))[2]
    assert label.pairs < 0.45 * 1620
    assert label.scale == pytest.approx(SCALES[2], rel=0.3)


def test_no_uncertainty_becomes_negative() -> None:
    """Noise that rises far more steeply than raw_e: the offset stops at its bound."""
    visits = survey(0, 400, 4)
    steep = (visits.raw_e_labels / typical()) ** 3 * typical()
    random = np.random.default_rng(0)
    labels = visits.labels[visits.star] + steep * random.normal(size=steep.shape)
    found = calibrated(replace(visits, labels=labels))
    assert sum("bound" in each.note for each in found) > 15
    e_labels = noise_model_of(found).apply(0.51 * visits.raw_e_labels)
    assert (e_labels > 0).all()


def test_the_width_of_a_unit_normal_is_one() -> None:
    z = np.random.default_rng(0).normal(size=100_000)
    assert width(z, np.ones(100_000)) == pytest.approx(1, abs=0.01)
    weights = np.where(z > 0, 2.0, 1.0)  # weights count like repeated values
    repeated = np.concatenate([z, z[z > 0]])
    assert width(z, weights) == pytest.approx(width(repeated, np.ones_like(repeated)), rel=1e-3)
