"""What a simulated telescope delivers: a star, and its visits on the apStar grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from producer.simulation.star_models import Model
from worker.array_types import Singles

Layout = Literal["dr13", "dr17", "sdss5"]


@dataclass(frozen=True)
class Star:
    """A simulated star.

    Attributes
    ----------
    obj
        Its name in the 2MASS style, from its coordinates.
    ra, dec
        Degrees.
    magnitudes
        J, H and K.
    v_helio
        Heliocentric radial velocity in km/s.
    labels
        The 22 labels, ``(22,)``, in the order of :data:`worker.labels.LABELS`.
    telescope
        ``apo25m`` or ``lco25m``.
    location
        The number of its field.
    model
        The model of real stars that its spectrum is like; None for the line list's.
    """

    obj: str
    ra: float
    dec: float
    magnitudes: tuple[float, float, float]
    v_helio: float
    labels: NDArray[np.float64]
    telescope: str
    location: int
    model: Model | None = None


@dataclass(frozen=True)
class Visits:
    """All visits to one star, resampled to the apStar grid in the star's rest frame.

    The images are ``(visits, 8575)``. They do not depend on a layout: pixels that the detectors
    did not cover are marked in ``covered`` alone, and the flux of a bad pixel is what the
    reduction interpolates there, with an ordinary error.

    Attributes
    ----------
    flux, error, sky, e_sky
        In 1e-17 erg/s/cm2/Angstrom, float32.
    telluric, e_telluric
        The correction for absorption by the air, float32.
    mask
        Bits of APOGEE_PIXMASK, int32.
    covered
        Where the detectors saw anything.
    plate, mjd, fiber
        What names a visit, ``(visits,)`` each.
    jd
        Julian date of the exposures' middle.
    barycentric
        Barycentric correction in km/s; the topocentric velocity is ``v_helio - barycentric``.
    snr
        Signal-to-noise ratio per pixel.
    """

    flux: Singles
    error: Singles
    mask: NDArray[np.int32]
    sky: Singles
    e_sky: Singles
    telluric: Singles
    e_telluric: Singles
    covered: NDArray[np.bool_]
    plate: NDArray[np.int64]
    mjd: NDArray[np.int64]
    fiber: NDArray[np.int64]
    jd: NDArray[np.float64]
    barycentric: NDArray[np.float64]
    snr: NDArray[np.float64]
