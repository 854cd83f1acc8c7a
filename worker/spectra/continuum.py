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

from worker.array_types import Floats
from worker.spectra.astronn_data import astronn_array
from worker.spectra.pixels import CUT_CHIPS, MASKED_BITS, N_APSTAR, cut_gaps, cut_rows

_DEGREE = 2
#: Of the scaled normal equations, 1 at best. At this one they lose 5 of 16 digits at most.
_LEAST_DETERMINANT = 1e-3


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
    pixels = _bases().pixels
    return np.array([row.take(pixels) for row in rows])


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
        for row, chip in zip(*np.nonzero(~sound), strict=True):
            coefficients[row, chip] = _by_singular_values(flux[row], weight[row], chip)
    return coefficients


def _by_normal_equations(flux: Floats, weight: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Coefficients, and whether they are to be trusted, ``(n, 3)``."""
    bases, shape = _bases(), (len(flux), len(CUT_CHIPS), _DEGREE + 1)
    largest = np.maximum.reduceat(weight, bases.starts, axis=1)
    square = (weight / largest[:, bases.chip]) ** 2
    left = _each(square, bases.products).reshape(*shape, _DEGREE + 1)
    right = _each(square * flux, bases.fitted).reshape(shape)
    scale = np.sqrt(np.diagonal(left, axis1=-2, axis2=-1))
    left /= scale[..., :, None] * scale[..., None, :]
    sound = np.linalg.det(left) > _LEAST_DETERMINANT
    left[~sound] = np.eye(_DEGREE + 1)
    solution = np.linalg.solve(left, (right / scale)[..., None])[..., 0] / scale
    return solution, sound & np.isfinite(solution).all(axis=-1)


def _each(rows: Floats, matrix: Floats) -> Floats:
    """The product of each row with a matrix; its last bits do not depend on the other rows."""
    return np.asarray(rows[:, None] @ matrix)[:, 0]


def _by_singular_values(flux: Floats, weight: Floats, chip: np.intp) -> Floats:
    """Coefficients of one chip of a row whatever its weights, as ``Chebyshev.fit`` finds them.

    Columns are scaled to unit length and small singular values dropped as there.
    """
    pixels, first = _bases().chip == chip, chip * (_DEGREE + 1)
    flux, weight = flux[pixels], weight[pixels]
    design = _bases().fitted[pixels, first : first + _DEGREE + 1] * weight[:, None]
    scale = np.sqrt(np.sum(design**2, axis=0))
    scale[scale == 0] = 1.0
    inverse = np.linalg.pinv(design / scale, rcond=len(flux) * np.finfo(np.float64).eps)
    return np.asarray(inverse @ (weight * flux) / scale)


def divide(flux: Floats, mask: NDArray[np.int32], coefficients: Floats) -> Floats:
    """Divide ``(n, 7514)`` flux by the continuum of these coefficients; see :func:`normalise`."""
    normalised = np.empty_like(flux)
    with np.errstate(all="ignore"):
        for number, chip in enumerate(CUT_CHIPS.values()):
            normalised[:, chip] = _each(coefficients[:, number], _bases().all[:, chip])
        np.divide(flux, normalised, out=normalised)
    # The network reads float32; what is infinite there, or NaN, is not finite.
    usable = np.isfinite(flux) & (normalised < np.finfo(np.float32).max)
    np.copyto(normalised, 0.0, where=normalised < 0)
    usable &= (mask & MASKED_BITS) == 0
    np.copyto(normalised, 1.0, where=~usable)
    return normalised


def lost_chips(flux: Floats, e_flux: Floats) -> list[tuple[str, ...]]:
    """Which chips of each spectrum carry no information for a continuum.

    A chip is lost when fewer of its continuum pixels than the polynomial has coefficients
    have finite positive flux with a finite uncertainty: a dead detector, a plane of zeros or
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
    count = np.add.reduceat(usable, _bases().starts, axis=1, dtype=np.intp)
    return chips_where(count <= _DEGREE)


def blank_chips(normalised: Floats) -> list[tuple[str, ...]]:
    """Which chips of each ``(n, 7514)`` normalised spectrum are 1.0 throughout (all masked)."""
    starts = [chip.start for chip in CUT_CHIPS.values()]
    return chips_where(np.logical_and.reduceat(normalised == 1.0, starts, axis=1))


def chips_where(hit: NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """The names of the chips that ``(n, 3)`` says."""
    return [tuple(compress(CUT_CHIPS, row)) for row in hit.tolist()]


@dataclass(frozen=True)
class _Bases:
    """Chebyshev polynomials 0 to 2 on the chips, and the 532 continuum pixels.

    ``pixels`` are their places in a row of 8575, ``chip`` the chip of each, ``starts`` where the
    chips begin among them. In ``fitted`` ``(532, 9)`` each chip has three columns for its own
    polynomials, in ``products`` ``(532, 27)`` nine for those of any two of them; elsewhere they
    are 0. ``all`` ``(3, 7514)`` has every pixel.
    """

    pixels: NDArray[np.intp]
    chip: NDArray[np.intp]
    starts: NDArray[np.intp]
    fitted: Floats
    products: Floats
    all: Floats


@lru_cache(maxsize=1)
def _bases() -> _Bases:
    """What fits and divisions share. A chip's variable runs from -1 to 1 in its fitted pixels."""
    mask = continuum_pixels()
    basis = np.empty((mask.size, _DEGREE + 1))
    for pixels in CUT_CHIPS.values():
        position = np.arange(pixels.stop - pixels.start, dtype=np.float64)
        ends = position[mask[pixels]][[0, -1]]
        scaled = np.polynomial.polyutils.mapdomain(position, ends, np.array([-1.0, 1.0]))
        basis[pixels] = np.polynomial.chebyshev.chebvander(scaled, _DEGREE)
    counts = [np.count_nonzero(mask[pixels]) for pixels in CUT_CHIPS.values()]
    chip = np.repeat(np.arange(len(counts)), counts)
    own = np.eye(len(counts))[chip]
    fitted = basis[mask]
    return _Bases(
        pixels=cut_gaps(np.arange(N_APSTAR))[mask],
        chip=chip,
        starts=np.cumsum(counts) - counts,
        fitted=np.einsum("pc,pj->pcj", own, fitted).reshape(len(own), -1),
        products=np.einsum("pc,pj,pk->pcjk", own, fitted, fitted).reshape(len(own), -1),
        all=basis.T.copy(),
    )


@lru_cache(maxsize=1)
def continuum_pixels() -> NDArray[np.bool_]:
    """AstroNN's DR17 continuum pixels, ``(7514,)``."""
    return astronn_array("dr17_contmask")
