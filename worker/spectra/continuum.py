"""Continuum normalisation of APOGEE spectra, as ``astroNN.apogee.apogee_continuum`` with dr=17.

Per chip a Chebyshev polynomial of degree 2 is fitted to the DR17 continuum pixels and divided
out (Leung & Bovy 2019, MNRAS 483, 3255, section 3.2). astroNN's function takes one row at a
time, and its released version turns a whole chip into ones when the flux of the chip's first
pixel is NaN. Here all rows are fitted together and pixels without data have no weight, which
is what astroNN's unreleased correction does. The tests hold both against astroNN's own
function.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from worker.spectra.astronn_data import astronn_array
from worker.spectra.pixels import CUT_CHIPS, MASKED_BITS, cut_gaps

_DEGREE = 2

Floats = NDArray[np.float64]


def uncertainties(error: NDArray[np.floating]) -> Floats:
    """The uncertainty of each pixel after the way through the inverse variance.

    Parameters
    ----------
    error
        Errors as the file has them, any shape.

    Returns
    -------
    ndarray
        ``ivar**-0.5`` with ``ivar = error**-2`` and every non-finite ivar set to 0, so that
        a pixel whose error is 0, infinite or NaN gets an infinite uncertainty.
    """
    with np.errstate(all="ignore"):
        ivar = np.asarray(error, dtype=np.float64) ** -2
        ivar[~np.isfinite(ivar)] = 0.0
        return ivar**-0.5


def normalise(flux: Floats, e_flux: Floats, mask: NDArray[np.int32]) -> Floats:
    """Divide spectra by their continuum.

    Parameters
    ----------
    flux, e_flux
        ``(n, 8575)``, in 1e-17 erg/s/cm2/Angstrom; NaN flux means no data.
    mask
        ``(n, 8575)`` APOGEE_PIXMASK bits.

    Returns
    -------
    ndarray
        ``(n, 7514)`` normalised flux: negative flux is 0; non-finite and masked pixels are 1.
    """
    flux, e_flux, mask = cut_gaps(flux), cut_gaps(e_flux), cut_gaps(mask)
    missing = ~np.isfinite(flux)
    flux = np.where(missing, 0.0, flux)
    with np.errstate(over="ignore"):  # a weight of zero is what such an error deserves
        weight = 1.0 / (np.where(missing, np.inf, e_flux) ** 2 + 1e-8)
    normalised = np.empty_like(flux)
    pixels = continuum_pixels()
    with np.errstate(all="ignore"):
        for chip in CUT_CHIPS.values():
            continuum = _fit(flux[:, chip], weight[:, chip], pixels[chip])
            normalised[:, chip] = flux[:, chip] / continuum
    normalised[normalised < 0] = 0.0
    # The network reads float32; what is infinite there, or NaN, is not finite.
    unusable = missing | ~(normalised < np.finfo(np.float32).max)
    replaced = unusable | ((mask & MASKED_BITS) != 0)
    normalised[replaced] = 1.0
    return normalised


def _fit(flux: Floats, weight: Floats, pixels: NDArray[np.bool_]) -> Floats:
    """The weighted least-squares polynomial of each row, as ``numpy.polynomial`` fits it.

    The weight multiplies the residual itself, not its square, as in ``Chebyshev.fit(w=...)``;
    columns are scaled to unit length and small singular values dropped as there.
    """
    position = np.arange(pixels.size, dtype=np.float64)
    fitted = position[pixels]
    scaled = np.polynomial.polyutils.mapdomain(
        position, np.array([fitted[0], fitted[-1]]), np.array([-1.0, 1.0])
    )
    basis = np.polynomial.chebyshev.chebvander(scaled, _DEGREE)
    design = basis[pixels] * weight[:, pixels, None]
    scale = np.sqrt(np.sum(design**2, axis=1, keepdims=True))
    scale[scale == 0] = 1.0
    rcond = fitted.size * np.finfo(np.float64).eps
    inverse = np.linalg.pinv(design / scale, rcond=rcond)
    target = (weight * flux)[:, pixels, None]
    coefficients = (inverse @ target)[..., 0] / scale[:, 0]
    return np.asarray(coefficients @ basis.T)


def lost_chips(flux: Floats, e_flux: Floats) -> list[tuple[str, ...]]:
    """Which chips of each spectrum carry no information for a continuum.

    A chip is lost when fewer of its continuum pixels than the polynomial has coefficients
    bear finite positive flux with a finite uncertainty: a dead detector, a plane of zeros or
    NaN, or weights that are all zero. astroNN would return such a chip as 1.0, and the network
    would answer all the same.

    Parameters
    ----------
    flux, e_flux
        ``(n, 8575)``.
    """
    flux, e_flux = cut_gaps(flux), cut_gaps(e_flux)
    pixels = continuum_pixels()
    usable = np.isfinite(flux) & (flux > 0) & np.isfinite(e_flux) & pixels
    return _chips_where(
        [usable[:, chip].sum(axis=1) <= _DEGREE for chip in CUT_CHIPS.values()], len(flux)
    )


def blank_chips(normalised: Floats) -> list[tuple[str, ...]]:
    """Which chips of each ``(n, 7514)`` normalised spectrum are 1.0 throughout (all masked)."""
    return _chips_where(
        [(normalised[:, chip] == 1.0).all(axis=1) for chip in CUT_CHIPS.values()],
        len(normalised),
    )


def _chips_where(per_chip: list[NDArray[np.bool_]], n_spectra: int) -> list[tuple[str, ...]]:
    return [
        tuple(name for name, hit in zip(CUT_CHIPS, per_chip, strict=True) if hit[row])
        for row in range(n_spectra)
    ]


@lru_cache(maxsize=1)
def continuum_pixels() -> NDArray[np.bool_]:
    """AstroNN's DR17 continuum pixels, ``(7514,)``.

    Raises
    ------
    FatalError
        astroNN is not installed, or without its data.
    """
    return astronn_array("dr17_contmask.npy").astype(np.bool_)
