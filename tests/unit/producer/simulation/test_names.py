from __future__ import annotations

import numpy as np
import pytest

from producer.simulation.names import star_path, visit_names
from producer.simulation.observation import Layout
from producer.sources.healpix import ring_pixel
from tests.inputs.simulated_visits import simulated_star, simulated_visits


@pytest.mark.parametrize(
    ("layout", "telescope", "expected"),
    [
        ("dr13", "apo25m", "r6/stars/apo25m/4476/apStar-r6-2M00000000+1634446.fits"),
        ("dr17", "apo25m", "dr17/stars/apo25m/sim04476/apStar-dr17-2M00000000+1634446.fits"),
        ("dr17", "lco25m", "dr17/stars/lco25m/sim04476/asStar-dr17-2M00000000+1634446.fits"),
        ("sdss5", "lco25m", "1.3/stars/lco25m/69/69904/apStar-1.3-lco25m-2M00000000+1634446.fits"),
    ],
)
def test_files_lie_where_the_era_puts_them(layout: Layout, telescope: str, expected: str) -> None:
    assert str(star_path(simulated_star(telescope=telescope), layout)) == expected


def test_names_of_visits_are_those_of_the_era() -> None:
    star, visits = simulated_star(telescope="lco25m"), simulated_visits(1)
    fiber = f"{visits.fiber[0]:03d}"
    assert visit_names(star, visits, "dr17") == [f"asVisit-dr17-6561-56587-{fiber}.fits"]
    assert visit_names(star, visits, "sdss5") == [f"apVisit-1.3-lco25m-6561-56587-{fiber}.fits"]


# HEALPix


@pytest.mark.parametrize(
    ("ra", "dec", "nside", "pixel"),
    [
        # Values of astropy-healpix 2.0.1, healpy.ang2pix(nside, ra, dec, lonlat=True)
        (0.89291667, -77.29080556, 128, 194088),
        (233.3, 10.9, 128, 79947),
        (11.3393, 16.579, 128, 69904),
        (266.4, -29.0, 128, 146043),
        (0.0, 90.0, 128, 0),
        (0.0, -90.0, 128, 196604),
        (359.999, 0.0, 128, 98559),
    ],
)
def test_healpix_pixels_are_those_of_healpy(ra: float, dec: float, nside: int, pixel: int) -> None:
    assert ring_pixel(ra, dec, nside) == pixel


def test_healpix_pixels_have_equal_areas() -> None:
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, 48_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 48_000)))
    counts = np.bincount([ring_pixel(*place, 4) for place in zip(ra, dec, strict=True)])
    assert counts.size == 12 * 4**2
    # 250 are expected in each of 192 pixels; 5 standard deviations
    assert np.abs(counts - 250).max() < 5 * 250**0.5
