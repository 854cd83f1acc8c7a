"""The simulated telescope: chips, sky lines, telluric bands and bad pixels.

Positions in the observer's frame are pixels of the apStar grid at zero velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Singles
from worker.spectra.pixels import CHIPS, N_APSTAR

#: Width of a pixel in km/s: log10 of the wavelength rises by 6e-6 per pixel.
PIXEL_KMS = 4.142
#: How far each chip reaches beyond its window, below and above, at zero velocity; real files
#: (BMIN, BMAX and so on of their headers) show about this.
_REACH = {"blue": (35, 37), "green": (35, 38), "red": (38, 36)}
_FEATURES_SEED = 1969
#: Sub-pixels of the templates, so that moving one is taking every tenth value.
_FINE = 10
_MARGIN = 120
_N_SKY_LINES = 170
#: Bands of carbon dioxide, water and methane: first and last wavelength (Angstrom), strength.
_TELLURIC_BANDS = (
    (15100.0, 15260.0, 0.10),
    (15690.0, 15850.0, 0.30),
    (15980.0, 16160.0, 0.30),
    (16300.0, 16900.0, 0.14),
)
#: Bits of APOGEE_PIXMASK: bad, cosmic ray, saturated, unfixable, bad dark, bad flat, bad error.
_BAD_BITS = np.array([0, 1, 1, 1, 2, 3, 4, 5, 6])
_NOT_ENOUGH_PSF = 14
_PERSISTENCE_BITS = (9, 10, 11)
_BAD_PIXELS_PER_VISIT = 60
_BAD_COLUMNS = 24


@dataclass(frozen=True)
class Weather:
    """What a night adds: airmass, sky brightness, and how badly both were taken out.

    ``sky`` is the sky's level in units of the star's noise; the residuals are shares of what
    was subtracted or divided out.
    """

    airmass: float
    sky: float
    sky_residual: float
    telluric_residual: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Weather:
        """One night's weather."""
        return cls(
            airmass=rng.uniform(1.0, 1.7),
            sky=float(rng.lognormal(0.0, 0.4)),
            sky_residual=0.15 * rng.standard_normal(),
            telluric_residual=0.015 * rng.standard_normal(),
        )


def coverage(shift: float, fiber: int) -> NDArray[np.bool_]:
    """Which pixels of the rest-frame grid the chips see, ``(8575,)``.

    Parameters
    ----------
    shift
        How many pixels the observer's frame lies to the right on the rest-frame grid.
    fiber
        1 to 300; the ends of the traces depend a little on it.
    """
    covered = np.zeros(N_APSTAR, dtype=np.bool_)
    skew = round(4 * (fiber - 150) / 150)
    move = round(shift) + skew
    for chip, window in CHIPS.items():
        low, high = _REACH[chip]
        covered[max(window.start - low + move, 0) : max(window.stop + high + move, 0)] = True
    return covered


def in_rest_frame(template: Singles, shift: float) -> Singles:
    """A template of the observer's frame, moved right by ``shift`` pixels, ``(8575,)``."""
    first = round((_MARGIN - np.clip(shift, -_MARGIN, _MARGIN)) * _FINE)
    return template[first : first + N_APSTAR * _FINE : _FINE]


def chip_response(rng: np.random.Generator, teff: float) -> Singles:
    """What is left of continuum and throughput, about 1: a slope by Teff, a bend per chip."""
    response = np.ones(N_APSTAR, dtype=np.float32)
    position = np.linspace(-1, 1, N_APSTAR, dtype=np.float32)
    response *= 1 - (0.10 + 0.05 * (teff - 4500) / 1500) * position
    for window in CHIPS.values():
        low, high = window.start - 160, window.stop + 160
        x = np.linspace(-1, 1, high - low, dtype=np.float32)
        bend = rng.standard_normal(4) * (0.03, 0.05, 0.03, 0.006)
        response[low:high] *= 1 + bend[0] + bend[1] * x + bend[2] * x**2 + bend[3] * x**3
    return response


def bad_pixels(
    rng: np.random.Generator, flux: Singles, shift: float, fiber: int
) -> tuple[NDArray[np.int32], Singles]:
    """Pixels that the detectors lost: their mask bits, and the flux interpolated over them."""
    mask = np.zeros(N_APSTAR, dtype=np.int32)
    scattered = rng.integers(0, N_APSTAR, rng.poisson(_BAD_PIXELS_PER_VISIT))
    columns = np.clip(_bad_columns() + round(shift), 0, N_APSTAR - 1)
    lost = np.concatenate([scattered, columns])
    bits = np.concatenate(
        [rng.choice(_BAD_BITS, scattered.size), _BAD_BITS[np.arange(columns.size) % 9]]
    )
    np.bitwise_or.at(mask, lost, (1 << bits).astype(np.int32))
    np.bitwise_or.at(mask, np.clip(lost + 1, 0, N_APSTAR - 1), np.int32(1 << _NOT_ENOUGH_PSF))
    if fiber <= 100:  # the corner of the blue detector that keeps the light of the last exposure
        mask[CHIPS["blue"]] |= np.int32(1 << _PERSISTENCE_BITS[fiber % 3])
    left, right = np.clip(lost - 2, 0, None), np.clip(lost + 2, None, N_APSTAR - 1)
    flux = flux.copy()
    flux[lost] = 0.5 * (flux[left] + flux[right])
    return mask, flux


@cache
def _bad_columns() -> NDArray[np.int_]:
    rng = np.random.default_rng([_FEATURES_SEED, 3])
    return rng.integers(0, N_APSTAR, _BAD_COLUMNS)


@cache
def sky_lines() -> Singles:
    """Airglow lines, strongest about 30, on sub-pixels of the observer's frame."""
    rng = np.random.default_rng([_FEATURES_SEED, 1])
    centres = rng.uniform(0, N_APSTAR, _N_SKY_LINES)
    strengths = 10 ** rng.uniform(-1.2, 1.5, _N_SKY_LINES)
    return _gaussians(centres, strengths, 1.35)


@cache
def telluric_transmission() -> Singles:
    """Transmission of the air at the zenith, on sub-pixels of the observer's frame."""
    rng = np.random.default_rng([_FEATURES_SEED, 2])
    centres, depths = [], []
    for first, last, strength in _TELLURIC_BANDS:
        low, high = ((np.log10(edge) - 4.179) / 6e-6 for edge in (first, last))
        places = np.arange(low, high, 9.0)
        centres.append(places + rng.uniform(-3, 3, places.size))
        depths.append(strength * rng.uniform(0.2, 1.5, places.size))
    depth = _gaussians(np.concatenate(centres), np.concatenate(depths), 1.4)
    return np.asarray(np.exp(-depth), dtype=np.float32)


def _gaussians(
    centres: NDArray[np.floating], heights: NDArray[np.floating], sigma: float
) -> Singles:
    size = (N_APSTAR + 2 * _MARGIN) * _FINE
    grid = np.arange(size) / _FINE - _MARGIN
    total = np.zeros(size)
    reach = round(8 * sigma * _FINE)
    for centre, height in zip(centres, heights, strict=True):
        middle = round((centre + _MARGIN) * _FINE)
        near = slice(max(middle - reach, 0), middle + reach)
        total[near] += height * np.exp(-0.5 * ((grid[near] - centre) / sigma) ** 2)
    return total.astype(np.float32)
