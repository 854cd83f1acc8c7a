"""The simulated survey: its stars, its forward model, and what the telescope adds."""

import numpy as np
import pytest

from producer.simulation import instrument
from producer.simulation.lines import on_apstar_grid, spectrum_model
from producer.simulation.observe import Observing, simulate_stars
from producer.simulation.population import N_NORMAL, N_UNIFORM, draw_labels
from worker.labels import LABEL_NAMES, LABELS
from worker.spectra.pixels import CHIPS, N_APSTAR
from worker.spectra.windows import element_window

TEFF, LOGG, FE_H = (LABEL_NAMES.index(name) for name in ("teff", "logg", "fe_h"))
ABUNDANCES = [name for name in LABEL_NAMES if name not in ("teff", "logg")]


def star(teff=4750.0, logg=2.5, metals=0.0, **changes):
    labels = np.full(len(LABELS), metals)
    labels[TEFF], labels[LOGG] = teff, logg
    for name, value in changes.items():
        labels[LABEL_NAMES.index(name)] = value
    return labels


def spectrum(**labels):
    return spectrum_model()(star(**labels)[None])[0]


def window_of(name):
    element = "Fe" if name == "fe_h" else LABELS[LABEL_NAMES.index(name)].element
    return on_apstar_grid(element_window(element))


@pytest.fixture(scope="module")
def population():
    rng = np.random.default_rng(3)
    return draw_labels(rng.random((20000, N_UNIFORM)), rng.standard_normal((20000, N_NORMAL)))


@pytest.fixture(scope="module")
def survey():
    return simulate_stars(5, range(60), Observing(visits=2, visit_range=False))


@pytest.mark.parametrize("name", ABUNDANCES)
def test_an_element_moves_the_pixels_of_its_own_windows_and_no_others(name):
    moved = spectrum(**{name: 0.3}) != spectrum()
    window = window_of(name)
    assert not moved[~window].any()
    assert moved[window].mean() > 0.5


@pytest.mark.parametrize("name", ABUNDANCES)
def test_more_of_an_element_absorbs_more(name):
    depths = [1 - spectrum(**{name: value})[window_of(name)] for value in (-1.0, 0.0, 0.5)]
    rounding = 1e-6
    assert (depths[0] <= depths[1] + rounding).all()
    assert (depths[1] <= depths[2] + rounding).all()
    assert depths[2].sum() > depths[0].sum()


def test_the_matrix_product_is_the_plain_sum_over_rows():
    model, labels = spectrum_model(), star(teff=5200.0, logg=3.3, metals=-0.4, mg_h=0.1)
    depth = np.zeros(N_APSTAR)
    for row, template in enumerate(model.metals):
        inverse = 5040 / 5200 - 5040 / 4750
        exponent = (1.6 - 0.6 * model.excitation[row]) * inverse
        exponent -= model.molecule[row] * 0.45
        exponent += model.gravity[row] * 0.8
        abundance = labels[model.column[row]]
        depth += 10 ** (min(max(exponent, -3.0), 0.7) + 0.7 * abundance) * template
    turbulence = 10 ** (0.226 - 0.0228 * 3.3 + 0.0297 * 3.3**2 - 0.0113 * 3.3**3)
    depth = depth / (1 + depth / (0.55 * np.sqrt(turbulence)))
    brackett = 0.16 / (1 + np.exp(-(5200 - 6200) / 420))
    place = np.log2(24 * 10 ** (0.25 * (3.3 - 4)) / 6)
    low = int(place)
    hydrogen = (low + 1 - place) * model.brackett[low] + (place - low) * model.brackett[low + 1]
    expected = (1 - depth) * (1 - brackett * hydrogen)
    np.testing.assert_allclose(model(labels[None])[0], expected, atol=2e-6)


def test_hydrogen_shows_in_hot_stars_and_is_wider_in_dwarfs():
    brackett_11 = (np.log10(16811.1) - 4.179) / 6e-6  # vacuum wavelength of Br 11 (Angstrom)
    core = round(brackett_11)
    metal_free = {"metals": -9.0}
    assert spectrum(teff=4500.0, **metal_free)[core] > 0.98
    assert spectrum(teff=6700.0, **metal_free)[core] < 0.90
    wing = slice(core + 30, core + 40)
    dwarf = spectrum(teff=6700.0, logg=4.5, **metal_free)[wing].mean()
    giant = spectrum(teff=6700.0, logg=2.0, **metal_free)[wing].mean()
    assert dwarf < giant


@pytest.mark.parametrize("name", ["c_h", "n_h", "o_h"])
def test_molecules_vanish_with_temperature(name):
    def effect(teff):
        return np.abs(spectrum(teff=teff, **{name: 0.2}) - spectrum(teff=teff)).sum()

    assert effect(4000.0) > 3 * effect(6000.0)


def test_flux_stays_between_nothing_and_the_continuum(population):
    spectra = spectrum_model()(population[:500])
    assert spectra.min() > 0.1
    assert spectra.max() <= 1.0


def test_the_population_has_giants_and_dwarfs_where_stars_are(population):
    teff, logg, fe_h = population[:, TEFF], population[:, LOGG], population[:, FE_H]
    giants = logg < 3.7
    assert 0.60 < giants.mean() < 0.75
    assert ((teff >= 3300) & (teff <= 6800)).all()
    assert ((logg > 0.2) & (logg < 5.0)).all()
    assert ((fe_h >= -2.4) & (fe_h <= 0.5)).all()
    # The branch rises towards cool stars; the main sequence falls towards hot ones.
    assert np.corrcoef(teff[giants], logg[giants])[0, 1] > 0.5
    assert np.corrcoef(teff[~giants], logg[~giants])[0, 1] < -0.5


def test_abundances_follow_iron_but_not_exactly(population):
    fe_h = population[:, FE_H]
    for name in ABUNDANCES:
        if name != "fe_h":
            x_fe = population[:, LABEL_NAMES.index(name)] - fe_h
            assert 0.03 < np.std(x_fe) < 0.35, name


def test_a_star_does_not_depend_on_the_others(survey):
    alone, visits = simulate_stars(5, [41], Observing(visits=2, visit_range=False))[0]
    among_others, its_visits = survey[41]
    assert alone.obj == among_others.obj
    np.testing.assert_array_equal(alone.labels, among_others.labels)
    np.testing.assert_array_equal(visits.flux, its_visits.flux)
    np.testing.assert_array_equal(visits.mask, its_visits.mask)


def test_a_later_visit_does_not_change_an_earlier_one():
    (_, two), (_, three) = (
        simulate_stars(5, [7], Observing(visits=count, visit_range=False))[0] for count in (2, 3)
    )
    assert set(two.jd) < set(three.jd)
    first = list(three.jd).index(two.jd[0])
    np.testing.assert_array_equal(two.flux[0], three.flux[first])


def test_the_error_plane_tells_the_noise(survey):
    # Second differences take out what is smooth; at low S/N, lines matter less than noise.
    ratios = []
    for _, visits in survey:
        flux, error = visits.flux.astype(np.float64), visits.error.astype(np.float64)
        good = visits.covered & (visits.mask == 0)
        good[:, 1:-1] &= good[:, 2:] & good[:, :-2]
        difference = flux[:, 1:-1] - 0.5 * (flux[:, 2:] + flux[:, :-2])
        expected = np.sqrt(error[:, 1:-1] ** 2 + 0.25 * (error[:, 2:] ** 2 + error[:, :-2] ** 2))
        noisy = visits.snr < 40
        scores = (difference / expected)[noisy][good[noisy][:, 1:-1]]
        ratios.extend(scores)
    # Of so many normal values the median of |z| is 0.6745 within 0.5 %; lines add a few per cent.
    assert len(ratios) > 100_000
    assert np.median(np.abs(ratios)) == pytest.approx(0.6745, rel=0.06)


def test_signal_to_noise_is_what_was_asked_for(survey):
    snr = np.concatenate([visits.snr for _, visits in survey])
    assert 6 < snr.min() < 20
    assert 120 < snr.max() < 270
    assert 40 < np.median(snr) < 65  # the middle of 10 to 250 in the logarithm is 50


def test_the_ends_of_the_chips_move_with_the_velocity():
    still, approaching = (instrument.coverage(shift, 150) for shift in (0.0, 60.0))
    blue = CHIPS["blue"]
    assert still[blue].all()
    assert not approaching[blue.start : blue.start + 20].any()
    assert approaching[blue.stop : blue.stop + 90].all()


def test_features_of_the_air_stand_still_for_the_observer():
    sky = instrument.sky_lines()
    moved = instrument.in_rest_frame(sky, 40.0)
    np.testing.assert_array_equal(moved[540:2540], instrument.in_rest_frame(sky, 0.0)[500:2500])


def test_the_earth_moves_as_astropy_says(survey):
    from astropy.coordinates import get_body_barycentric_posvel
    from astropy.time import Time

    for target, visits in survey[:10]:
        for jd, barycentric in zip(visits.jd, visits.barycentric, strict=True):
            _, velocity = get_body_barycentric_posvel("earth", Time(jd, format="jd"))
            ra, dec = np.radians(target.ra), np.radians(target.dec)
            towards = [np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)]
            expected = velocity.xyz.to_value("km/s") @ towards
            assert barycentric == pytest.approx(expected, abs=1.5)  # the orbit's eccentricity


def test_most_pixels_are_good_and_some_are_not(survey):
    bits = 0b1_0000_1111_1111
    fractions = [((visits.mask & bits) != 0)[:, CHIPS["green"]].mean() for _, visits in survey]
    assert 0.02 < np.median(fractions) < 0.25
    for bit in (0, 1, 8 + 4, 13, 14):
        assert any(((visits.mask >> bit) & 1).any() for _, visits in survey), bit
