"""Continuum normalisation of APOGEE spectra, as ``astroNN.apogee.apogee_continuum`` with dr=17.

Per chip a Chebyshev polynomial of degree 2 is fitted to the DR17 continuum pixels and divided
out (Leung & Bovy 2019, MNRAS 483, 3255, section 3.2). astroNN's function takes one row at a
time, and its released version turns a whole chip into ones when the flux of the chip's first
pixel is NaN. Here all rows are fitted together and pixels without data have no weight, which
is what astroNN's unreleased correction does. The tests hold both against astroNN's own
function.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.spectra.astronn_data import astronn_array
from worker.spectra.pixels import CUT_CHIPS, MASKED_BITS, N_APSTAR, cut_gaps, cut_rows

_DEGREE = 2
#: Of the scaled normal equations, 1 at best. At this one they lose 5 of 16 digits at most.
_LEAST_DETERMINANT = 1e-3

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
        size = np.abs(error, dtype=np.float64)
        ivar = 1.0 / (size * size)
        return np.where(np.isfinite(ivar) & (ivar > 0), size, np.inf)


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
    coefficients = fit_continuum(in_continuum(flux), in_continuum(e_flux))
    return divide(cut_rows(flux), cut_rows(mask), coefficients)


def in_continuum(rows: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """The continuum pixels of rows of 8575, ``(n, 532)``: all that a fit looks at."""
    return np.stack([row[_bases().pixels] for row in rows])


def fit_continuum(flux: Floats, e_flux: Floats) -> Floats:
    """The weighted least-squares polynomial of each chip, as ``numpy.polynomial`` fits it.

    The weight multiplies the residual itself, not its square, as in ``Chebyshev.fit(w=...)``.
    The normal equations of three coefficients lose nothing that matters as long as a chip's
    weighted pixels tell the three polynomials apart. Where they hardly do, or not at all, the
    chip is fitted by singular values.

    Parameters
    ----------
    flux, e_flux
        ``(n, 532)``: the continuum pixels, as :func:`in_continuum` gives them.

    Returns
    -------
    ndarray
        ``(n, 3, 3)``: of each chip the coefficients of the Chebyshev polynomials 0 to 2.
    """
    missing = ~np.isfinite(flux)
    flux = np.where(missing, 0.0, flux)
    with np.errstate(all="ignore"):  # a weight of zero is what an overflowing error deserves
        weight = 1.0 / (np.where(missing, np.inf, e_flux) ** 2 + 1e-8)
        coefficients, sound = _by_normal_equations(flux, weight)
        for row, chip in np.argwhere(~sound):
            pixels = _bases().chips[chip]
            coefficients[row, chip] = _by_singular_values(
                flux[row, pixels], weight[row, pixels], _bases().fitted[pixels]
            )
    return coefficients


def _by_normal_equations(flux: Floats, weight: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Coefficients, and whether they are to be trusted, ``(n, 3)``.

    With ``T_j T_k = (T_{j+k} + T_{|j-k|}) / 2`` the equations of a chip are made of five sums.
    """
    bases = _bases()
    starts = [chip.start for chip in bases.chips]
    largest = np.maximum.reduceat(weight, starts, axis=1)
    square = (weight / np.repeat(largest, np.diff([*starts, weight.shape[1]]), axis=1)) ** 2
    sums = np.stack([square[:, chip] @ bases.fitted[chip] for chip in bases.chips], axis=1)
    square *= flux
    right = np.stack(
        [square[:, chip] @ bases.fitted[chip, : _DEGREE + 1] for chip in bases.chips], axis=1
    )
    order = np.arange(_DEGREE + 1)
    left = sums[..., order[:, None] + order] + sums[..., np.abs(order[:, None] - order)]
    scale = np.sqrt(np.diagonal(left, axis1=-2, axis2=-1))
    left /= scale[..., :, None] * scale[..., None, :]
    sound = np.linalg.det(left) > _LEAST_DETERMINANT
    left[~sound] = np.eye(_DEGREE + 1)
    solution = np.linalg.solve(left, (2.0 * right / scale)[..., None])[..., 0] / scale
    return solution, sound & np.isfinite(solution).all(axis=-1)


def _by_singular_values(flux: Floats, weight: Floats, basis: Floats) -> Floats:
    """Coefficients of one chip whatever its weights, as ``Chebyshev.fit`` finds them.

    Columns are scaled to unit length and small singular values dropped as there.
    """
    design = basis[:, : _DEGREE + 1] * weight[:, None]
    scale = np.sqrt(np.sum(design**2, axis=0))
    scale[scale == 0] = 1.0
    inverse = np.linalg.pinv(design / scale, rcond=len(flux) * np.finfo(np.float64).eps)
    return np.asarray(inverse @ (weight * flux) / scale)


def divide(flux: Floats, mask: NDArray[np.int32], coefficients: Floats) -> Floats:
    """Divide ``(n, 7514)`` flux by the continuum of these coefficients; see :func:`normalise`."""
    normalised = np.empty_like(flux)
    with np.errstate(all="ignore"):
        for number, chip in enumerate(CUT_CHIPS.values()):
            np.matmul(coefficients[:, number], _bases().all[:, chip], out=normalised[:, chip])
        np.divide(flux, normalised, out=normalised)
    # The network reads float32; what is infinite there, or NaN, is not finite.
    usable = np.isfinite(flux) & (normalised < np.finfo(np.float32).max)
    np.maximum(normalised, 0.0, out=normalised)
    usable &= (mask & MASKED_BITS) == 0
    np.copyto(normalised, 1.0, where=~usable)
    return normalised


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
    return lost_in_continuum(in_continuum(flux), in_continuum(e_flux))


def lost_in_continuum(flux: Floats, e_flux: Floats) -> list[tuple[str, ...]]:
    """As :func:`lost_chips`, from the ``(n, 532)`` pixels that :func:`in_continuum` gives."""
    usable = np.isfinite(flux) & (flux > 0) & np.isfinite(e_flux)
    starts = [chip.start for chip in _bases().chips]
    return _chips_where(np.add.reduceat(usable, starts, axis=1, dtype=np.intp) <= _DEGREE)


def blank_chips(normalised: Floats) -> list[tuple[str, ...]]:
    """Which chips of each ``(n, 7514)`` normalised spectrum are 1.0 throughout (all masked)."""
    chips = [(normalised[:, chip] == 1.0).all(axis=1) for chip in CUT_CHIPS.values()]
    return _chips_where(np.stack(chips, axis=1))


def _chips_where(hit: NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """The names of the chips that ``(n, 3)`` says."""
    return [tuple(compress(CUT_CHIPS, row)) for row in hit.tolist()]


@dataclass(frozen=True)
class _Bases:
    """Chebyshev polynomials on the chips.

    ``pixels`` are the places of the continuum pixels in a row of 8575, ``chips`` their slices
    chip by chip, ``fitted`` polynomials 0 to 4 at them ``(532, 5)``, ``all`` polynomials 0 to 2
    at every pixel ``(3, 7514)``.
    """

    pixels: NDArray[np.intp]
    chips: tuple[slice, ...]
    fitted: Floats
    all: Floats


@lru_cache(maxsize=1)
def _bases() -> _Bases:
    """What fits and divisions share. A chip's variable runs from -1 to 1 in its fitted pixels."""
    mask = continuum_pixels()
    chips, fitted, everywhere, end = [], [], [], 0
    for chip in CUT_CHIPS.values():
        position = np.arange(chip.stop - chip.start, dtype=np.float64)
        used = position[mask[chip]]
        scaled = np.polynomial.polyutils.mapdomain(position, used[[0, -1]], np.array([-1.0, 1.0]))
        vandermonde = np.polynomial.chebyshev.chebvander(scaled, 2 * _DEGREE)
        everywhere.append(vandermonde[:, : _DEGREE + 1])
        fitted.append(vandermonde[mask[chip]])
        chips.append(slice(end, end := end + used.size))
    pixels = cut_gaps(np.arange(N_APSTAR))[mask]
    return _Bases(pixels, tuple(chips), np.concatenate(fitted), np.concatenate(everywhere).T.copy())


@lru_cache(maxsize=1)
def continuum_pixels() -> NDArray[np.bool_]:
    """AstroNN's DR17 continuum pixels, ``(7514,)``.

    Raises
    ------
    FatalError
        astroNN is not installed, or without its data.
    """
    return astronn_array("dr17_contmask.npy").astype(np.bool_)
