from __future__ import annotations

import io
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from producer.simulation import apstar_file
from producer.simulation.apstar_file import StarWriter, star_hdus, velocity_tables
from producer.simulation.headers import primary_cards
from producer.simulation.layouts import encode, smooth_continuum
from producer.simulation.names import star_path, visit_names
from producer.simulation.observation import Layout, Visits
from producer.sources.files import spectra_of
from tests.inputs.simulated_visits import CHIPS, N_PIXELS, simulated_star, simulated_visits
from worker.database.tables import Kind
from worker.spectra.formats.apstar import read_spectra
from worker.spectra.formats.format import SpectrumArrays

LAYOUTS: tuple[Layout, ...] = ("dr13", "dr17", "sdss5")
#: Typed anew from the fact sheet of the data.
TYPES = {"dr13": (-32, 16), "dr17": (-64, 64), "sdss5": (-64, 64)}
SINGLE = {"dr13": (N_PIXELS,), "dr17": (2, N_PIXELS), "sdss5": (1, N_PIXELS)}
NO_DATA_COADD = {"dr13": (0, 1e10, 1), "dr17": (np.nan, np.nan, 0), "sdss5": (np.nan, 0, 0)}
NO_DATA_VISIT = {"dr13": (0, 1e10, 1), "dr17": (0, 0, 0), "sdss5": (0, 0, 0)}
BAD_BITS = (0, 1, 2, 3, 4, 5, 6, 7, 14)
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


def write(folder: Path, visits: Visits, layout: Layout, *, seed: int = 0) -> Path:
    star = simulated_star(seed)
    path = folder / star_path(star, layout)
    StarWriter().write(path, star, visits, layout, encode(visits, layout))
    return path


def images(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    with fits.open(path, memmap=False) as hdus:
        return hdus[1].data, hdus[2].data, hdus[3].data


def raised(mask: int) -> float:
    """How much the reductions raise an error for persistence and sky lines."""
    factors = {9: 5**0.5, 10: 2.0, 11: 3**0.5}
    persistence = next((factor for bit, factor in factors.items() if mask >> bit & 1), 1.0)
    return persistence * (10.0 if mask >> 12 & 1 else 1.0)


def is_bad(mask: int) -> bool:
    return any(mask >> bit & 1 for bit in BAD_BITS)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found, expected)


# Shapes, types, pixels without data


@by_layout
@pytest.mark.parametrize("n", [1, 2, 5])
def test_shapes_and_types_are_those_of_the_era(tmp_path: Path, layout: Layout, n: int) -> None:
    with fits.open(write(tmp_path, simulated_visits(n), layout)) as hdus:
        assert len(hdus) == (11 if layout == "dr17" else 10)
        hdus.verify("exception")
        shape = SINGLE[layout] if n == 1 else (n + 2, N_PIXELS)
        real, integer = TYPES[layout]
        for number, hdu in enumerate(hdus[1:8], start=1):
            assert hdu.shape == shape
            assert hdu.header["BITPIX"] == (integer if number == 3 else real)
            assert (hdu.header["CRVAL1"], hdu.header["CDELT1"]) == (4.179, 6e-6)
            assert not {"BSCALE", "BZERO"} & set(hdu.header)
        assert hdus[8].shape == ((26,) if layout == "dr13" else ())
        assert len(hdus[9].data) == (1 if layout == "dr13" else n)


@by_layout
@pytest.mark.parametrize("n", [1, 3])
def test_pixels_without_data_have_the_values_of_the_era(
    tmp_path: Path, layout: Layout, n: int
) -> None:
    visits = simulated_visits(n)
    rows = [np.atleast_2d(image) for image in images(write(tmp_path, visits, layout))]
    seen = visits.covered.any(axis=0) if layout == "dr13" else visits.covered.all(axis=0)
    for image, value in zip(rows, NO_DATA_COADD[layout], strict=True):
        same(image[0][~seen], np.full((~seen).sum(), value, dtype=image.dtype))
    for number, covered in enumerate(visits.covered if n > 1 else []):
        for image, value in zip(rows, NO_DATA_VISIT[layout], strict=True):
            same(image[2 + number][~covered], np.full((~covered).sum(), value, image.dtype))
    if layout != "dr13":  # and nowhere else, but for bad pixels of all visits in DR12-16
        assert np.isfinite(rows[0][0][seen]).all()


def test_dr17_has_zeros_beside_an_only_visit(tmp_path: Path) -> None:
    for image in images(write(tmp_path, simulated_visits(1), "dr17")):
        assert image.shape == (2, N_PIXELS)
        assert not image[1].any()


def test_pixel_that_is_bad_in_all_visits_is_missing_from_dr13_coadds(tmp_path: Path) -> None:
    visits = simulated_visits(3)
    visits.mask[:, 1000] = 1 << np.array([1, 4, 14])
    flux, error, mask = images(write(tmp_path, visits, "dr13"))
    assert (flux[0, 1000], error[0, 1000], mask[0, 1000]) == (0, np.float32(1e10), 1)
    same(mask[2:, 1000], [2, 16, 1 << 14])


# Visits and coadds


@by_layout
@pytest.mark.parametrize("n", [1, 3])
def test_loader_reads_the_visits_that_were_made(tmp_path: Path, layout: Layout, n: int) -> None:
    visits = simulated_visits(n)
    path = write(tmp_path, visits, layout)
    rows = read_spectra(path, visit_names(simulated_star(), visits, layout))
    continuum = smooth_continuum(visits.flux, visits.covered)
    for number, row in enumerate(rows):
        assert isinstance(row, SpectrumArrays)
        seen, mask = visits.covered[number], visits.mask[number]
        same(row.flux[seen], visits.flux[number][seen])
        same(row.mask[seen], mask[seen])
        factor = np.array([raised(bits) for bits in mask.tolist()])
        expected = visits.error[number] * (1 if layout == "dr13" else factor)
        if layout == "dr17":
            lost = np.array([is_bad(bits) for bits in mask.tolist()])
            expected = np.where(lost, 1e10 * continuum[number], expected)
        np.testing.assert_allclose(row.error[seen], expected[seen], rtol=1e-12)


@by_layout
def test_only_visit_is_the_coadd(tmp_path: Path, layout: Layout) -> None:
    visits = simulated_visits(1)
    coadd, visit = read_spectra(
        write(tmp_path, visits, layout), ["coadd", *visit_names(simulated_star(), visits, layout)]
    )
    assert isinstance(coadd, SpectrumArrays)
    assert isinstance(visit, SpectrumArrays)
    same(coadd.flux, visit.flux)
    same(coadd.error, visit.error)
    same(coadd.mask, visit.mask)


@by_layout
@pytest.mark.parametrize("row", [0, 1])
def test_coadds_are_those_of_a_plain_loop(tmp_path: Path, layout: Layout, row: int) -> None:
    visits = simulated_visits(3, levels=(100.0, 130.0, 70.0))
    flux, error, _ = images(write(tmp_path, visits, layout))
    continuum = smooth_continuum(visits.flux, visits.covered)
    part = visits.covered.any(axis=0) & ~visits.covered.all(axis=0)
    pixels = [*range(1000, 1400), *np.flatnonzero(part).tolist()]
    medians = [median_error(visits, continuum, layout, n) for n in range(3)] if row == 1 else []
    expected = np.array([slow_coadd(visits, continuum, layout, i, medians) for i in pixels])
    kept = np.isfinite(expected[:, 0])
    assert kept.sum() > 380
    tolerance = 1e-6 if layout == "dr13" else 1e-12
    pixels = np.array(pixels)[kept]
    np.testing.assert_allclose(flux[row, pixels], expected[kept, 0], rtol=tolerance)
    np.testing.assert_allclose(error[row, pixels], expected[kept, 1], rtol=tolerance)


def slow_coadd(
    visits: Visits, continuum: NDArray[np.float64], layout: Layout, i: int, medians: list[float]
) -> tuple[float, float]:
    """One pixel of a coadd, weighted by visit if there are medians; NaN where there is none."""
    total = weighted = 0.0
    for n in range(len(visits.flux)):
        mask, scale = int(visits.mask[n, i]), continuum[n, i]
        if layout != "dr13" and not visits.covered[:, i].all():
            return np.nan, np.nan
        if not visits.covered[n, i] or (layout == "dr13" and is_bad(mask)):
            continue
        if not medians:
            sigma = float(visits.error[n, i]) / scale * raised(mask)
            if layout == "dr17" and is_bad(mask):
                sigma = 1e10
        else:
            sigma = medians[n] * (10.0 if mask >> 12 & 1 else 1.0)
        total += sigma**-2
        weighted += float(visits.flux[n, i]) / scale * sigma**-2
    if total == 0:
        return np.nan, np.nan
    mean_scale = continuum[:, i].mean()
    return weighted / total * mean_scale, total**-0.5 * mean_scale


def median_error(visits: Visits, continuum: NDArray[np.float64], layout: Layout, n: int) -> float:
    errors = []
    for i in np.flatnonzero(visits.covered[n]).tolist():
        mask = int(visits.mask[n, i])
        sigma = float(visits.error[n, i]) / continuum[n, i]
        if layout != "dr13":
            sigma *= raised(mask)
        errors.append(1e10 if layout == "dr17" and is_bad(mask) else sigma)
    return float(np.median(errors))


def test_visits_of_other_levels_leave_no_steps_in_a_coadd(tmp_path: Path) -> None:
    visits = simulated_visits(2, levels=(100.0, 200.0), noise=1e-6)
    visits.mask[0, 1500:1600] = 1  # the coadd takes the second visit alone here
    flux, _, _ = images(write(tmp_path, visits, "dr13"))
    shape = visits.flux[1] / 200.0
    ratio = flux[0, 1300:1800] / shape[1300:1800]
    assert np.ptp(ratio[flux[0, 1300:1800] > 0]) < 0.02 * 150


def test_continuum_is_made_of_medians_of_blocks() -> None:
    visits = simulated_visits(2, noise=0.05)
    continuum = smooth_continuum(visits.flux, visits.covered)
    for row in range(2):
        for chip in CHIPS:
            near = slice(chip.start - 60, chip.stop + 60)
            seen = [i for i in range(near.start, near.stop) if visits.covered[row, i]]
            places, medians = [], []
            for first in range(0, len(seen) // 300 * 300, 300):
                block = seen[first : first + 300]
                places.append(sum(block) / 300)
                medians.append(np.median([visits.flux[row, i] for i in block]))
            expected = np.interp(seen, places, medians)
            np.testing.assert_allclose(continuum[row, seen], expected, rtol=1e-6)


def test_continuum_of_a_chip_that_was_not_seen_is_one() -> None:
    visits = simulated_visits(1)
    visits.covered[0, 3430:6212] = False
    continuum = smooth_continuum(visits.flux, visits.covered)
    assert (continuum[0, 3430:6212] == 1).all()
    assert (continuum[0, CHIPS[0]] > 10).all()


@by_layout
def test_masks_of_coadds_are_those_of_the_era(tmp_path: Path, layout: Layout) -> None:
    visits = simulated_visits(3)
    flux, _, mask = images(write(tmp_path, visits, layout))
    for i in range(0, N_PIXELS, 7):
        seen = [int(m) for m, c in zip(visits.mask[:, i], visits.covered[:, i], strict=True) if c]
        if layout != "dr13":
            every = reduce(and_, seen) if len(seen) == 3 else 0
            assert (mask[0, i], mask[1, i]) == (every, 0)
        elif flux[0, i] == 0:
            assert (mask[0, i], mask[1, i]) == (1, 1)
        else:
            assert (mask[0, i], mask[1, i]) == (reduce(or_, seen), reduce(and_, seen))


def test_sky_and_telluric_images_have_the_visits_and_in_dr13_their_means(tmp_path: Path) -> None:
    visits = simulated_visits(2)
    both = visits.covered.all(axis=0)
    for layout in LAYOUTS:
        with fits.open(write(tmp_path, visits, layout), memmap=False) as hdus:
            sky, e_sky = hdus[4].data, hdus[5].data
        same(sky[2:][:, both], visits.sky[:, both])
        if layout == "dr13":
            np.testing.assert_allclose(sky[0][both], visits.sky.mean(axis=0)[both], rtol=1e-6)
            error = np.hypot(*visits.e_sky.astype(float)) / 2
            np.testing.assert_allclose(e_sky[0][both], error[both], rtol=1e-6)
        else:
            assert not sky[:2].any()


# Headers, names, bytes


@by_layout
@pytest.mark.parametrize("n", [1, 3])
def test_catalogue_reads_what_was_made(tmp_path: Path, layout: Layout, n: int) -> None:
    visits, star = simulated_visits(n), simulated_star()
    path = write(tmp_path, visits, layout)
    coadd, *of_visits = spectra_of(path.resolve(), tmp_path, "both")
    assert (coadd.kind, coadd.obj, coadd.n_visits) == (Kind.COADD, star.obj, n)
    assert (coadd.ra, coadd.dec, coadd.telescope) == (star.ra, star.dec, "apo25m")
    assert coadd.apred == {"dr13": "r6", "dr17": "dr17", "sdss5": "1.3"}[layout]
    assert coadd.field == (None if layout == "sdss5" else "sim04476")
    assert coadd.healpix == (69904 if layout == "sdss5" else None)
    assert coadd.spectrum_flags == 0
    flux, error, _ = (np.atleast_2d(image) for image in images(path))
    with np.errstate(invalid="ignore", divide="ignore"):
        assert coadd.snr == pytest.approx(np.nanmedian(flux[0] / error[0]), rel=1e-6)
    assert [(v.plate, v.mjd, v.fiber) for v in of_visits] == [
        ("6561", *numbers)
        for numbers in zip(visits.mjd.tolist(), visits.fiber.tolist(), strict=True)
    ]
    if layout != "dr17":
        assert [visit.snr for visit in of_visits] == pytest.approx(visits.snr.tolist())
    elif n == 1:
        assert of_visits[0].snr == 0


CARDS: dict[Layout, tuple[set[str], set[str]]] = {
    "dr13": (
        {"TELESCOP", "LOCID", "FIELD", "SURVEY", "VHELIO", "VRAD", "RVTEFF", "J", "VHELIO1"},
        {"HEALPIX", "APRED", "STARVER", "RV_TEFF", "VREL1"},
    ),
    "dr17": (
        {"FIELD", "VHELIO", "RV_TEFF", "RV_LOGG", "RV_FEH", "H", "BMIN"},
        {"TELESCOP", "LOCID", "HEALPIX", "VRAD", "RVTEFF", "VREL1"},
    ),
    "sdss5": (
        {"HEALPIX", "APRED", "V_APRED", "STARVER", "CATID", "VRAD", "VREL1", "HMAG"},
        {"TELESCOP", "LOCID", "FIELD", "VHELIO", "VHELIO1", "RVTEFF"},
    ),
}
ALWAYS = "OBJID NVISITS SNR STARFLAG ANDFLAG VSCATTER MEANFIB SIGFIB RA DEC CRVAL1 CDELT1 CRPIX1"
PER_VISIT = "SFILE DATE JD FIBER BC VRAD SNRVIS FLAG"


@by_layout
def test_headers_have_the_cards_of_the_era_and_no_others(tmp_path: Path, layout: Layout) -> None:
    visits, star = simulated_visits(2), simulated_star()
    header = fits.getheader(write(tmp_path, visits, layout))
    there, not_there = CARDS[layout]
    assert {*ALWAYS.split(), *(f"{key}2" for key in PER_VISIT.split()), *there} <= set(header)
    assert not not_there & set(header)
    assert header["DATE2"] == "2013-11-11T04:48:00.000"
    topocentric = star.v_helio - visits.barycentric[1]
    if layout == "sdss5":
        assert (header["VRAD"], header["VRAD2"], header["VREL2"]) == (6.75, 6.75, topocentric)
        assert header["STARVER"] == "56607"
    else:
        assert (header["VHELIO"], header["VRAD2"]) == (6.75, topocentric)


@by_layout
def test_every_file_says_that_it_is_simulated(tmp_path: Path, layout: Layout) -> None:
    header = fits.getheader(write(tmp_path, simulated_visits(1), layout))
    assert header["SIMULATE"] is True
    assert "simulated" in header.comments["SIMULATE"]
    assert "Simulated by astronn-stream" in " ".join(header["COMMENT"])


def test_flags_tell_of_low_snr_and_persistence(tmp_path: Path) -> None:
    visits = simulated_visits(2, noise=0.3)
    visits.mask[0, :1000] |= 1 << 9  # too few pixels to tell of
    visits.mask[1] |= 1 << 10
    header = fits.getheader(write(tmp_path, visits, "sdss5"))
    assert (header["FLAG1"], header["FLAG2"]) == (1 << 4, 1 << 4 | 1 << 10)
    assert (header["STARFLAG"], header["ANDFLAG"]) == (1 << 4 | 1 << 10, 1 << 4)


@by_layout
@pytest.mark.parametrize("n", [1, 2])
def test_writer_gives_the_bytes_of_hdus_built_anew(tmp_path: Path, layout: Layout, n: int) -> None:
    writer = StarWriter()
    for seed in range(3):
        star, visits = simulated_star(seed), simulated_visits(n, seed)
        planes = encode(visits, layout)
        path = tmp_path / f"{seed}.fits"
        size = writer.write(path, star, visits, layout, planes)
        cards = primary_cards(star, visits, layout, planes)
        anew = io.BytesIO()
        star_hdus(layout, cards, planes, velocity_tables(star, visits, layout)).writeto(anew)
        assert path.read_bytes() == anew.getvalue()
        assert size == path.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.fits", "1.fits", "2.fits"]


def test_writer_gives_the_same_bytes_when_it_has_to_build_hdus_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apstar_file, "_MOST_KINDS", 2)
    writer, star, path = StarWriter(), simulated_star(), tmp_path / "star.fits"
    contents: dict[int, set[bytes]] = {1: set(), 2: set(), 3: set()}
    for n in [*contents] * 2:
        visits = simulated_visits(n)
        writer.write(path, star, visits, "dr13", encode(visits, "dr13"))
        contents[n].add(path.read_bytes())
        assert len(writer._kinds) <= 2
    assert [len(versions) for versions in contents.values()] == [1, 1, 1]


@by_layout
def test_velocity_table_has_the_visits(tmp_path: Path, layout: Layout) -> None:
    star, visits = simulated_star(), simulated_visits(3)
    with fits.open(write(tmp_path, visits, layout), memmap=False) as hdus:
        table = hdus[9].data
        files = table["FILE"][0] if layout == "dr13" else table["filename"]
        velocities = table["VREL"][0] if layout == "dr13" else table["vrel"]
        assert list(files) == visit_names(star, visits, layout)
        np.testing.assert_allclose(velocities, star.v_helio - visits.barycentric, rtol=1e-6)
