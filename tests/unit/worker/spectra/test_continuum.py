from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.inputs.apstar_files import ERAS, WINDOWS, Era, Planes, write_apstar
from worker.spectra import continuum
from worker.spectra.continuum import (
    blank_chips,
    continuum_pixels,
    lost_chips,
    normalise,
    uncertainties,
)
from worker.spectra.formats.apstar import read_header, read_spectra
from worker.spectra.formats.format import SpectrumArrays

Floats = NDArray[np.float64]
Reference = Callable[[Floats, Floats, NDArray[np.int32]], Floats]

ALL_CHIPS = ("blue", "green", "red")
#: Where the chips lie once the gaps are cut out.
CUT = {"blue": slice(0, 3028), "green": slice(3028, 5523), "red": slice(5523, 7514)}
IN_WINDOWS = np.concatenate([np.arange(8575)[window] for window in WINDOWS.values()])
CLEAN = np.zeros((1, 8575), dtype=np.int32)


@pytest.fixture(scope="session")
def astronn() -> Reference:
    """astroNN's own normalisation, row by row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from astroNN.apogee import apogee_continuum

    def reference(flux: Floats, e_flux: Floats, mask: NDArray[np.int32]) -> Floats:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return np.concatenate(
                [
                    apogee_continuum(row.copy(), error.copy(), bitmask=bits.copy(), dr=17)[0]
                    for row, error, bits in zip(flux, e_flux, mask, strict=True)
                ]
            )

    return reference


def assert_same(actual: Floats, expected: Floats) -> None:
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=0)


def rows_of(path: Path, coadd_mask: str = "and") -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Flux, uncertainty and mask of the coadd and all visits of a file."""
    members = ["coadd", *read_header(path).visits]
    rows = read_spectra(path, members, coadd_mask=coadd_mask)
    spectra = [row for row in rows if isinstance(row, SpectrumArrays)]
    assert len(spectra) == len(members)
    flux, error, mask = (
        np.stack([getattr(spectrum, name) for spectrum in spectra])
        for name in ("flux", "error", "mask")
    )
    return flux, uncertainties(error), mask


def star(seed: int = 0, n: int = 1) -> tuple[Floats, Floats]:
    """Flux and uncertainty of ``n`` sound rows without gaps or masked pixels."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 8575)
    level = 200 * (1 + 0.2 * x - 0.1 * x**2)
    error = level / 100 * rng.uniform(0.8, 1.2, (n, 8575))
    return level * (1 - 0.3 * rng.random((n, 8575)) ** 8) + error * rng.normal(
        size=(n, 8575)
    ), error


# As astroNN does it


@pytest.mark.parametrize("coadd_mask", ["and", "or"])
def test_all_real_rows_are_normalised_as_astronn_does(
    apstar_folder: Path, astronn: Reference, coadd_mask: str
) -> None:
    n_rows = 0
    for path in sorted(apstar_folder.iterdir()):
        rows = rows_of(path, coadd_mask)
        assert_same(normalise(*rows), astronn(*rows))
        n_rows += len(rows[0])
    assert n_rows == 44


@pytest.mark.parametrize("n_visits", [1, 3])
@pytest.mark.parametrize("era", ERAS)
def test_rows_of_every_era_are_normalised_as_astronn_does(
    tmp_path: Path, astronn: Reference, era: Era, n_visits: int
) -> None:
    path = write_apstar(tmp_path / "star.fits", era=era, n_visits=n_visits, seed=3).path
    flux, e_flux, mask = rows_of(path)
    assert np.isfinite(flux[:, IN_WINDOWS]).all()
    normalised = normalise(flux, e_flux, mask)
    # Where there is nothing between the chips, astroNN never looks.
    assert_same(normalised, astronn(flux, e_flux, mask))
    assert abs(np.median(normalised) - 1) < 0.05


def dead_chip(flux: Floats, e_flux: Floats) -> None:
    flux[:, WINDOWS["green"]], e_flux[:, WINDOWS["green"]] = 0.0, 1e10


def all_zero(flux: Floats, e_flux: Floats) -> None:
    flux[:] = 0.0
    e_flux[:] = np.inf


def weightless_chip(flux: Floats, e_flux: Floats) -> None:  # noqa: ARG001
    e_flux[:, WINDOWS["red"]] = np.inf


def missing_pixels(flux: Floats, e_flux: Floats) -> None:
    flux[:, 246:300], e_flux[:, 246:300] = 0.0, np.inf


def noise_only(flux: Floats, e_flux: Floats) -> None:
    flux[:, WINDOWS["blue"]] = np.random.default_rng(5).normal(size=3028) * e_flux[:, 246:3274]


def cosmic_ray(flux: Floats, e_flux: Floats) -> None:
    flux[:, 1000] *= 50
    e_flux[:, 1000] *= 500


DEFECTS = [dead_chip, all_zero, weightless_chip, missing_pixels, noise_only, cosmic_ray]


@pytest.mark.parametrize("defect", DEFECTS)
def test_defective_rows_are_normalised_as_astronn_does(
    astronn: Reference, defect: Callable[[Floats, Floats], None]
) -> None:
    flux, e_flux = star()
    defect(flux, e_flux)
    assert_same(normalise(flux, e_flux, CLEAN), astronn(flux, e_flux, CLEAN))


def test_visit_pixel_without_data_is_zero_and_not_one() -> None:
    flux, e_flux = star()
    missing_pixels(flux, e_flux)
    assert (normalise(flux, e_flux, CLEAN)[0, :54] == 0.0).all()


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_flux_that_is_not_finite_is_one_and_does_not_touch_its_chip(
    astronn: Reference, nothing: float
) -> None:
    flux, e_flux = star()
    first_pixels = [window.start for window in WINDOWS.values()]
    assert continuum_pixels()[[0, 3028, 5523]].all()
    missing = np.zeros((1, 8575), dtype=bool)
    missing[0, first_pixels] = True
    missing[0, 246:290] = missing[0, 5000:5020] = missing[0, 8330:8335] = True
    guarded = astronn(np.where(missing, 0.0, flux), np.where(missing, np.inf, e_flux), CLEAN)
    missing_after = missing[:, IN_WINDOWS]

    for error in (e_flux, np.where(missing, np.nan, e_flux)):
        normalised = normalise(np.where(missing, nothing, flux), uncertainties(error), CLEAN)
        assert (normalised[missing_after] == 1.0).all()
        assert_same(normalised[~missing_after], guarded[~missing_after])
    # The chips are no plateau of ones, and nearly as if nothing were missing.
    whole = normalise(flux, e_flux, CLEAN)
    assert np.median(np.abs(normalised - whole)[~missing_after]) < 0.01
    assert np.count_nonzero(normalised == 1.0) == missing_after.sum()


def test_nan_coadds_of_a_fast_star_keep_their_chips(tmp_path: Path, astronn: Reference) -> None:
    # The real star with -250 km/s, written as DR17 writes a coadd: NaN for no data.
    def lose_chip_starts(planes: Planes) -> None:
        for window in WINDOWS.values():
            planes.flux[0, window.start : window.start + 30] = np.nan
            planes.error[0, window.start : window.start + 30] = np.nan

    path = write_apstar(tmp_path / "star.fits", era="dr17", edit=lose_chip_starts).path
    flux, e_flux, mask = rows_of(path)
    flux, e_flux, mask = flux[:1], e_flux[:1], mask[:1]
    normalised = normalise(flux, e_flux, mask)
    missing = np.isnan(flux)
    guarded = astronn(np.where(missing, 0.0, flux), np.where(missing, np.inf, e_flux), mask)
    has_data = ~missing[:, IN_WINDOWS]
    assert (~has_data).sum() == 90
    assert_same(normalised[has_data], guarded[has_data])
    assert lost_chips(flux, e_flux) == blank_chips(normalised) == [()]


def test_rows_are_independent_of_their_batch() -> None:
    flux, e_flux = star(n=len(DEFECTS) + 1)
    for row, defect in enumerate(DEFECTS):
        defect(flux[row : row + 1], e_flux[row : row + 1])
    mask = np.zeros(flux.shape, dtype=np.int32)
    mask[2, ::7] = 1
    together = normalise(flux, e_flux, mask)
    for row in range(len(flux)):
        one = slice(row, row + 1)
        alone = normalise(flux[one], e_flux[one], mask[one])
        np.testing.assert_array_equal(together[one], alone)


def test_arguments_are_left_as_they_are() -> None:
    flux, e_flux = star()
    flux[0, 246], mask = np.nan, CLEAN.copy()
    copies = flux.copy(), e_flux.copy(), mask.copy()
    normalise(flux, e_flux, mask)
    lost_chips(flux, e_flux)
    uncertainties(e_flux)
    for array, copy in zip((flux, e_flux, mask), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# Values


def test_negative_flux_becomes_zero() -> None:
    flux, e_flux = star()
    flux[0, [500, 4000, 7000]] = [-3.0, -1e-6, -1e5]
    at = np.searchsorted(IN_WINDOWS, [500, 4000, 7000])
    normalised = normalise(flux, e_flux, CLEAN)
    assert (normalised[0, at] == 0.0).all()
    assert np.count_nonzero(normalised == 0.0) == 3


@pytest.mark.parametrize("bit", range(16))
def test_bits_0_to_7_and_12_turn_a_pixel_into_one(bit: int) -> None:
    flux, e_flux = star()
    mask = CLEAN.copy()
    mask[0, 700] = np.array([1 << bit], dtype="u2").view("i2").astype("i4")[0]
    plain = normalise(flux, e_flux, CLEAN)[0]
    masked = normalise(flux, e_flux, mask)[0]
    pixel = 700 - 246
    assert plain[pixel] != 1.0
    assert (masked[pixel] == 1.0) == (bit in {0, 1, 2, 3, 4, 5, 6, 7, 12})
    assert np.flatnonzero(masked != plain).tolist() in ([], [pixel])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (2.0, 2.0),
        (1e10, 1e10),
        (-2.0, 2.0),
        (0.0, np.inf),
        (np.inf, np.inf),
        (np.nan, np.inf),
        (1e-200, np.inf),  # its inverse variance is infinite
        (1e200, np.inf),  # its inverse variance is 0
    ],
)
def test_uncertainty_of_an_error(error: float, expected: float) -> None:
    result = uncertainties(np.full((2, 3), error))
    assert result.shape == (2, 3)
    np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_uncertainties_of_float32_do_not_overflow() -> None:
    result = uncertainties(np.array([1e-30, 3.0], dtype=np.float32))
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, [1e-30, 3.0], rtol=1e-6)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.001, 0.1, 0.9, 1.0]),
    values=st.lists(
        st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-30, 1e10, 1e30, 1e160, 1e300]),
        min_size=1,
    ),
)
def test_whatever_is_read_becomes_finite_and_not_negative(
    seed: int, share: float, values: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    flux, error = star(n=2)
    for plane in (flux, error):
        hit = rng.random(plane.shape) < share
        plane[hit] = rng.choice(values, hit.sum())
    mask = rng.integers(0, 1 << 15, flux.shape).astype(np.int32)
    normalised = normalise(flux, uncertainties(error), mask)
    assert normalised.shape == (2, 7514)
    assert np.isfinite(normalised).all()
    assert (normalised >= 0).all()


# Chips without information

CHIP_CASES: dict[str, tuple[dict[str, float], dict[str, float], tuple[str, ...]]] = {
    "sound": ({}, {}, ()),
    "all flux zero": (dict.fromkeys(ALL_CHIPS, 0.0), {}, ALL_CHIPS),
    "all flux NaN": (dict.fromkeys(ALL_CHIPS, np.nan), {}, ALL_CHIPS),
    "one chip of NaN": ({"red": np.nan}, {}, ("red",)),
    "one chip of infinity": ({"blue": np.inf}, {}, ("blue",)),
    "negative chip": ({"green": -5.0}, {}, ("green",)),
    "dead chip": ({"green": 0.0}, {"green": 1e10}, ("green",)),
    "two dead chips": (dict.fromkeys(("blue", "red"), 0.0), {"blue": 1e10}, ("blue", "red")),
    "all errors zero": ({}, dict.fromkeys(ALL_CHIPS, 0.0), ALL_CHIPS),
    "all errors NaN": ({}, dict.fromkeys(ALL_CHIPS, np.nan), ALL_CHIPS),
    "chip of infinite errors": ({}, {"blue": np.inf}, ("blue",)),
    "chip of zero errors": ({}, {"red": 0.0}, ("red",)),
    "large errors": ({}, dict.fromkeys(ALL_CHIPS, 1e10), ()),
}


@pytest.mark.parametrize(("fluxes", "errors", "lost"), CHIP_CASES.values(), ids=CHIP_CASES.keys())
def test_lost_chips(
    fluxes: dict[str, float], errors: dict[str, float], lost: tuple[str, ...]
) -> None:
    flux, error = star(n=2)
    for plane, values in ((flux, fluxes), (error, errors)):
        for chip, value in values.items():
            plane[1, WINDOWS[chip]] = value
    assert lost_chips(flux, uncertainties(error)) == [(), lost]


@pytest.mark.parametrize(("usable", "lost"), [(0, True), (2, True), (3, False)])
def test_chip_is_lost_below_as_many_pixels_as_the_continuum_has_coefficients(
    usable: int, lost: bool
) -> None:
    flux, e_flux = star()
    in_continuum = 246 + np.flatnonzero(continuum_pixels()[CUT["blue"]])
    others = np.setdiff1d(np.arange(246, 3274), in_continuum)
    assert len(others) > 1000
    flux[0, in_continuum[usable:]] = 0.0
    assert lost_chips(flux, e_flux) == [("blue",) if lost else ()]


def test_one_bad_continuum_pixel_loses_no_chip_and_changes_little() -> None:
    flux, error = star()
    whole = normalise(flux, error, CLEAN)
    error[0, 246] = np.nan
    assert lost_chips(flux, uncertainties(error)) == [()]
    np.testing.assert_allclose(normalise(flux, uncertainties(error), CLEAN), whole, rtol=0.01)


@pytest.mark.parametrize("chips", [(), ("blue",), ("green",), ("blue", "red"), ALL_CHIPS])
def test_blank_chips_are_those_masked_throughout(chips: tuple[str, ...]) -> None:
    flux, e_flux = star(n=2)
    mask = np.zeros((2, 8575), dtype=np.int32)
    for chip in chips:
        mask[1, WINDOWS[chip]] = 1 << 12
    assert blank_chips(normalise(flux, e_flux, mask)) == [(), chips]


def test_chip_with_one_pixel_left_is_not_blank() -> None:
    normalised = np.ones((1, 7514))
    normalised[0, [3027, 3028]] = 0.9
    assert blank_chips(normalised) == [("red",)]


# The two ways to fit


def few_weights(usable: int) -> Callable[[Floats, Floats], None]:
    """So many usable continuum pixels in the blue chip."""

    def edit(flux: Floats, e_flux: Floats) -> None:  # noqa: ARG001
        in_blue = 246 + np.flatnonzero(continuum_pixels()[CUT["blue"]])
        e_flux[:, np.delete(in_blue, np.linspace(0, len(in_blue) - 1, usable, dtype=int))] = np.inf

    return edit


def one_heavy_weight(flux: Floats, e_flux: Floats) -> None:  # noqa: ARG001
    e_flux[:, 246] = 1e-3


def weights_side_by_side(flux: Floats, e_flux: Floats) -> None:  # noqa: ARG001
    e_flux[:, 300:3274] = 1e9


def tiny_weights(flux: Floats, e_flux: Floats) -> None:  # noqa: ARG001
    e_flux *= 1e80


@pytest.mark.parametrize(
    "edit",
    [
        *(few_weights(number) for number in (1, 2, 3, 4, 5, 10)),
        *(one_heavy_weight, weights_side_by_side, tiny_weights),
    ],
)
def test_ill_determined_chips_are_fitted_as_astronn_does(
    astronn: Reference, edit: Callable[[Floats, Floats], None]
) -> None:
    flux, e_flux = star()
    edit(flux, e_flux)
    assert_same(normalise(flux, e_flux, CLEAN), astronn(flux, e_flux, CLEAN))


def test_ill_determined_chip_does_not_touch_its_neighbours() -> None:
    flux, e_flux = star(n=3)
    alone = normalise(flux, e_flux, np.repeat(CLEAN, 3, axis=0))
    few_weights(2)(flux[1:2], e_flux[1:2])
    together = normalise(flux, e_flux, np.repeat(CLEAN, 3, axis=0))
    changed = together != alone
    assert changed[1, CUT["blue"]].mean() > 0.9
    changed[1, CUT["blue"]] = False
    np.testing.assert_allclose(together[changed], alone[changed], rtol=1e-12)


def test_real_and_sound_rows_need_no_singular_values(
    apstar_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        pytest.fail("a chip of a real spectrum is taken for ill-determined")

    monkeypatch.setattr(continuum, "_by_singular_values", refused)
    for path in sorted(apstar_folder.iterdir()):
        normalise(*rows_of(path))
    normalise(*star(), CLEAN)
