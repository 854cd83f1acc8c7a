"""Stars like those of published models: formulas, labels, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from producer.simulation.observe import Observing, simulate_stars
from producer.simulation.star_models import Model
from producer.simulation.star_models.population import (
    ALPHA,
    FE_H_RANGE,
    draw_parameters,
    labels_of,
)
from producer.simulation.star_models.spectra import (
    model_error,
    numbers,
    on_apstar_grid,
    rest_spectrum,
)
from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from worker.array_types import Floats
from worker.labels import LABEL_NAMES
from worker.spectra.network_input import network_input
from worker.spectra.pixels import CHIPS

#: Teff, log g, [Fe/H], [alpha/Fe] and, for the dwarf, km/s.
STARS: dict[Model, Floats] = {
    Model.DWARFS: np.array([5500.0, 4.4, -0.1, 0.05, 4.0]),
    Model.GIANTS: np.array([4700.0, 2.5, -0.1, 0.08]),
    Model.SYNTHETIC: np.array([4700.0, 2.5, -0.1, 0.08]),
}
KNOWN = ("teff", "logg", "fe_h", *ALPHA)


def drawn(model: Model, n: int) -> Floats:
    rng = np.random.default_rng(4)
    return np.array([draw_parameters(model, rng.random(6), rng.normal(size=30)) for _ in range(n)])


def in_pixel(model: Model, labels: Floats, pixel: int) -> float:
    """A pixel's flux by the formulas of the publications, one number after the other."""
    file = numbers(model)
    if model == Model.GIANTS:
        d = labels - file["baseline"]
        products = [d[i] * d[j] for i in range(4) for j in range(i, 4)]
        terms = [1.0, *d, *products]
        return float(sum(t * c for t, c in zip(terms, file["coefficients"][:, pixel], strict=True)))
    scaled = (labels - file["x_min"]) / (file["x_max"] - file["x_min"]) - 0.5
    flux = float(file["b_array_1"][pixel])
    for unit in range(5):
        value = file["w_array_0"][pixel, unit] @ scaled + file["b_array_0"][pixel, unit]
        flux += float(file["w_array_1"][pixel, unit]) / (1 + np.exp(-value))
    return flux


@pytest.mark.parametrize("model", [Model.DWARFS, Model.GIANTS])
def test_a_spectrum_is_that_of_the_published_formula(model: Model) -> None:
    flux = rest_spectrum(model, STARS[model])
    for pixel in (0, 1234, 5000, 7213):
        assert flux[pixel] == pytest.approx(in_pixel(model, STARS[model], pixel), abs=1e-5)


def test_the_synthetic_spectrum_has_the_lines_of_its_formula_and_no_continuum() -> None:
    flux = rest_spectrum(Model.SYNTHETIC, STARS[Model.SYNTHETIC])
    grid = numbers("grid")
    pixels = np.arange(3000, 3050)
    raw = [in_pixel(Model.SYNTHETIC, STARS[Model.SYNTHETIC], pixel) for pixel in pixels]
    expected = np.array(raw) / grid["wavelength"][pixels] ** 2
    # Within so few pixels a continuum is a line.
    line = np.poly1d(np.polyfit(pixels, flux[pixels] / expected, 1))
    np.testing.assert_allclose(flux[pixels], expected * line(pixels), rtol=1e-3)
    for chip in (slice(0, 2920), slice(2920, 5320), slice(5320, 7214)):
        assert np.median(flux[chip][grid["continuum_pixels"][chip]]) == pytest.approx(1, abs=0.01)


def test_models_of_one_giant_agree_line_by_line() -> None:
    giant, synthetic = (rest_spectrum(m, STARS[m]) for m in (Model.GIANTS, Model.SYNTHETIC))
    assert np.corrcoef(giant, synthetic)[0, 1] > 0.93


def test_pixels_that_no_model_has_tell_nothing_and_look_like_a_spectrum() -> None:
    flux = rest_spectrum(Model.GIANTS, STARS[Model.GIANTS])
    rows = np.array([on_apstar_grid(flux, np.random.default_rng(i)) for i in range(50)])
    edge = np.zeros(8575, dtype=bool)
    for chip in CHIPS.values():
        edge[chip] = True
    edge[322:3242] = edge[3648:6048] = edge[6412:8306] = False
    assert edge.sum() == 300
    np.testing.assert_array_equal(rows[:, 322:3242], np.tile(flux[:2920], (50, 1)).astype("f4"))
    assert rows[:, edge].std(axis=1).mean() == pytest.approx(flux.std(), rel=0.2)
    scatter = rows[:, edge].std(axis=0)
    assert scatter.min() > 0.5 * flux.std()


def test_errors_of_models_go_together_as_lines_do_and_have_their_scatter() -> None:
    scatter = numbers(Model.GIANTS)["scatter"]
    known = scatter > 0
    rng = np.random.default_rng(5)
    errors = np.array([model_error(rng) for _ in range(1000)])
    assert (errors[:, ~known] == 0).all()
    scatter, errors = scatter[known], errors[:, known]
    # A share between 0 and 1 of the scatter, whose mean square is a third, here to within 3 %.
    assert np.mean((errors / scatter) ** 2) == pytest.approx(1 / 3, rel=0.1)
    pairs = np.mean(errors[:, 1:] * errors[:, :-1] / (scatter[1:] * scatter[:-1]))
    assert pairs / np.mean((errors / scatter) ** 2) == pytest.approx(np.exp(-1 / 4), abs=0.03)


@pytest.mark.parametrize("model", list(Model))
def test_parameters_stay_where_the_model_holds(model: Model) -> None:
    parameters = drawn(model, 2000)
    file = numbers(model)
    if model == Model.GIANTS:
        lowest, highest = (f(file["training_labels"], axis=0) for f in (np.min, np.max))
        lowest = np.maximum(lowest, [3900, -9, FE_H_RANGE[0], -9])
    else:
        lowest, highest = file["x_min"], file["x_max"]
    assert (parameters >= lowest).all()
    assert (parameters <= highest + 0.01).all()  # 45 km/s instead of 44.992
    assert (parameters.std(axis=0) > 0.05 * (highest - lowest)).all()


@pytest.mark.parametrize("model", list(Model))
def test_labels_are_those_that_the_models_know(model: Model) -> None:
    labels = dict(zip(LABEL_NAMES, labels_of(model, STARS[model]), strict=True))
    assert [name for name in labels if np.isfinite(labels[name])] == [
        name for name in LABEL_NAMES if name in KNOWN
    ]
    teff, logg, fe_h, alpha = STARS[model][:4]
    if model == Model.SYNTHETIC:  # brought to the scale of the others
        logg, alpha = logg - 0.37, alpha + 0.06
    assert [labels[name] for name in KNOWN[:3]] == pytest.approx([teff, logg, fe_h])
    assert {labels[name] for name in ALPHA} == {fe_h + alpha}


def test_stars_take_turns_with_the_models_whatever_their_layouts() -> None:
    models = (Model.GIANTS, Model.DWARFS)
    made = simulate_stars(1, range(12), Observing(visits=1, models=models))
    assert [star.model for star, _ in made] == [*[models[0]] * 3, *[models[1]] * 3] * 2
    alone, visits = simulate_stars(1, [7], Observing(visits=1, models=models))[0]
    assert (alone.obj, visits.flux.tobytes()) == (made[7][0].obj, made[7][1].flux.tobytes())


def test_normalised_spectra_are_like_the_rest_spectrum() -> None:
    observing = Observing(visits=1, snr=(300.0, 300.0), models=(Model.GIANTS,))
    for _, visits in simulate_stars(2, range(3), observing):
        [flux] = network_input(
            list(visits.flux.astype(float)), list(visits.error.astype(float)), list(visits.mask)
        )
        assert not isinstance(flux, str)
        shown = flux != 1
        assert 0.8 < np.median(flux[shown]) < 1.05
        assert flux[shown].std() > 0.04  # lines, far above the noise


def test_files_say_which_model_they_are_like(tmp_path: Path) -> None:
    survey = Survey(stars=3, visits=1, like=(Model.DWARFS,))
    truth = Truth.of(tmp_path, survey.settings())
    write_survey(survey, tmp_path, truth, 1, lambda _: None)
    [header, *_] = [fits.getheader(path) for path in tmp_path.rglob("apStar*.fits")]
    assert (header["SIMULATE"], header["STARLIKE"]) == (True, "dwarfs")
    table = truth.table()
    assert table.meta["simulate"]["like"] == ["dwarfs"]
    assert np.isnan(table["c_h"]).all()
    assert np.isfinite(table["mg_h"]).all()
    # The same folder goes on with the same models alone.
    Truth.of(tmp_path, survey.settings())
    assert "like" not in Survey(stars=3, visits=1).settings()
