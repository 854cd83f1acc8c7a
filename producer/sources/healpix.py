"""The HEALPix pixel of a position, by which SDSS-V files its stars."""

from __future__ import annotations

import math


def ring_pixel(ra: float, dec: float, nside: int = 128) -> int:
    """The number of the pixel that holds a position, in the RING scheme.

    The equations of Gorski et al. 2005 (ApJ 622, 759), section 4.1: rings of equal latitude,
    counted from the north pole, the pixels of a ring towards larger right ascension.

    Parameters
    ----------
    ra, dec
        Degrees.
    nside
        The resolution; SDSS-V files stars at 128.
    """
    z = math.sin(math.radians(dec))
    quarter = (ra % 360.0) / 90.0
    return _equatorial(z, quarter, nside) if abs(z) <= 2 / 3 else _polar(dec, quarter, nside)


def _equatorial(z: float, quarter: float, nside: int) -> int:
    ascending = math.floor(nside * (0.5 + quarter - 0.75 * z))
    descending = math.floor(nside * (0.5 + quarter + 0.75 * z))
    ring = nside + 1 + ascending - descending  # from 1 at z = 2/3
    shifted = 1 - ring % 2
    place = (ascending + descending - nside + shifted + 1) // 2 % (4 * nside)
    return 2 * nside * (nside - 1) + (ring - 1) * 4 * nside + place


def _polar(dec: float, quarter: float, nside: int) -> int:
    within = quarter % 1.0
    # sqrt(3 (1 - |sin dec|)) without loss of digits near the pole
    distance = nside * math.sqrt(6.0) * math.sin(math.radians(90.0 - abs(dec)) / 2)
    ascending, descending = math.floor(within * distance), math.floor((1 - within) * distance)
    ring = ascending + descending + 1  # from the nearest pole
    place = math.floor(quarter * ring) % (4 * ring)
    if dec > 0:
        return 2 * ring * (ring - 1) + place
    return 12 * nside**2 - 2 * ring * (ring + 1) + place
