"""How each era of the reduction lays out the visits of a star: rows, types, what is missing.

``dr13`` stands for the IDL reduction of DR12-16, ``dr17`` for DR17, ``sdss5`` for SDSS-V. The
coadds follow the reductions' own code: ``apvisitcomb.pro`` and ``apstar.py`` of sdss/apogee and
``rv.py`` of sdss/apogee_drp. Three things are simpler here: the continuum that brings the visits
to one scale comes from medians of blocks instead of a running median, the coadd takes the mean
continuum in every era, and the weights of row 1 are one per visit instead of a running median
of its errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producer.simulation.observation import Layout, Visits
from worker.array_types import Floats

Rows = NDArray[Any]

#: Bits of APOGEE_PIXMASK that make a pixel bad for the reduction: 0 to 7, NOT_ENOUGH_PSF.
BAD = 0b100_0000_1111_1111
_PERSIST_HIGH, _PERSIST_MED, _PERSIST_LOW, _SIG_SKYLINE = 1 << 9, 1 << 10, 1 << 11, 1 << 12
#: The error of a bad pixel in DR17, in units of the continuum.
_LOST = 1e10
#: The grid, cut in the middle of the gaps between the chips: blue, green, red.
CHIPS = (slice(0, 3430), slice(3430, 6212), slice(6212, 8575))
_BLOCK = 300


@dataclass(frozen=True)
class _Era:
    """What tells the eras apart; a pixel without data is (flux, error), its mask the same in all.

    ``raised`` says whether the visits' rows show the errors raised for persistence and sky
    lines, ``leaves_out`` whether the coadd leaves out single bad or uncovered pixels of a visit:
    otherwise a pixel that any visit does not cover is missing, and bad pixels count like others.
    """

    real: type[np.floating[Any]]
    integer: type[np.signedinteger[Any]]
    missing_in_coadd: tuple[float, float]
    missing_in_visit: tuple[float, float]
    missing_mask: int
    raised: bool
    leaves_out: bool


_ERAS: dict[Layout, _Era] = {
    "dr13": _Era(np.float32, np.int16, (0.0, 1e10), (0.0, 1e10), 1, False, True),
    "dr17": _Era(np.float64, np.int64, (np.nan, np.nan), (0.0, 0.0), 0, True, False),
    "sdss5": _Era(np.float64, np.int64, (np.nan, 0.0), (0.0, 0.0), 0, True, False),
}


@dataclass(frozen=True)
class Planes:
    """The images of HDU 1 to 7 as a file holds them, ``(rows, 8575)`` or ``(8575,)``.

    Row 0 is the coadd weighted by pixel, row 1 the one weighted by visit, row 1+n visit n. One
    visit is a 1-D image in ``dr13``, one row in ``sdss5``, and has a row of zeros beside it in
    ``dr17``.
    """

    flux: Rows
    error: Rows
    mask: Rows
    sky: Rows
    e_sky: Rows
    telluric: Rows
    e_telluric: Rows

    def images(self) -> tuple[Rows, ...]:
        """The images in the order of their HDUs."""
        sky = (self.sky, self.e_sky, self.telluric, self.e_telluric)
        return (self.flux, self.error, self.mask, *sky)


def encode(visits: Visits, layout: Layout) -> Planes:
    """The images of a star's file in the layout of an era, in native byte order."""
    era = _ERAS[layout]
    continuum = smooth_continuum(visits.flux, visits.covered)
    flux, error = visits.flux.astype(np.float64), _visit_errors(visits, continuum, layout)
    coadd = _coadd(visits, flux, error, continuum, layout)
    visit = (
        *_marked(flux, error, visits.covered, era.missing_in_visit),
        np.where(visits.covered, visits.mask, era.missing_mask),
    )
    flux, error, mask = (
        _as_rows(first, rest, layout) for first, rest in zip(coadd, visit, strict=True)
    )
    auxiliary = [(visits.sky, 1), (visits.e_sky, 2), (visits.telluric, 1), (visits.e_telluric, 2)]
    images = [(image * visits.covered, power) for image, power in auxiliary]
    sky, e_sky, telluric, e_telluric = (
        _as_rows(_mean_of_covering(image, visits, power, layout), image, layout)
        for image, power in images
    )
    return Planes(
        flux.astype(era.real),
        error.astype(era.real),
        mask.astype(era.integer),
        *(image.astype(era.real) for image in (sky, e_sky, telluric, e_telluric)),
    )


def smooth_continuum(flux: Rows, covered: NDArray[np.bool_]) -> Floats:
    """The continuum of spectra: medians of blocks of 300 pixels of each chip, joined.

    Parameters
    ----------
    flux, covered
        ``(n, 8575)``; a chip is covered in one piece or not at all.

    Returns
    -------
    ndarray
        ``(n, 8575)``; 1 in a chip that was not seen.
    """
    continuum = np.ones(flux.shape)
    for row in range(len(flux)):
        for chip in CHIPS:
            seen = np.flatnonzero(covered[row, chip]) + chip.start
            if (blocks := seen.size // _BLOCK) == 0:
                continue
            used = seen[: blocks * _BLOCK].reshape(blocks, _BLOCK)
            medians = np.median(flux[row, used], axis=1)
            pixels = np.arange(chip.start, chip.stop)
            continuum[row, chip] = np.interp(pixels, used.mean(axis=1), medians)
    return continuum


def downweighting(mask: Rows) -> Floats:
    """By how much the reductions raise the errors of pixels with persistence and sky lines."""
    persistence = np.select(
        [(mask & bit) != 0 for bit in (_PERSIST_HIGH, _PERSIST_MED, _PERSIST_LOW)],
        [np.sqrt(5.0), np.sqrt(4.0), np.sqrt(3.0)],
        1.0,
    )
    return np.asarray(persistence * np.where(mask & _SIG_SKYLINE, 10.0, 1.0))


def _visit_errors(visits: Visits, continuum: Floats, layout: Layout) -> Floats:
    error = visits.error.astype(np.float64)
    if _ERAS[layout].raised:
        error *= downweighting(visits.mask)
    return np.where(visits.mask & BAD, _LOST * continuum, error) if layout == "dr17" else error


def _coadd(
    visits: Visits, flux: Floats, error: Floats, continuum: Floats, layout: Layout
) -> tuple[Floats, Floats, Rows]:
    """Flux, error and mask of rows 0 and 1, ``(2, 8575)``; of one visit row 0 alone."""
    era = _ERAS[layout]
    if len(flux) == 1:  # the visit itself
        mask = np.where(visits.covered, visits.mask, era.missing_mask)
        return *_marked(flux, error, visits.covered, era.missing_in_coadd), mask
    by_pixel = error / continuum
    by_visit = _errors_by_visit(by_pixel, visits)
    if not era.raised:
        by_pixel = by_pixel * downweighting(visits.mask)
    good = (visits.mask & BAD) == 0 if era.leaves_out else visits.covered.all(axis=0)
    rows = [
        weighted_mean(flux, sigma, continuum, visits.covered & good)
        for sigma in (by_pixel, by_visit)
    ]
    flux, error = (np.stack(parts) for parts in zip(*rows, strict=True))
    present = np.isfinite(flux)
    mask = np.where(present, _coadd_masks(visits, layout), era.missing_mask)
    return *_marked(flux, error, present, era.missing_in_coadd), mask


def _errors_by_visit(sigma: Floats, visits: Visits) -> Floats:
    """The median error of each visit in all its pixels, raised for sky lines alone."""
    medians = [np.median(row[seen]) for row, seen in zip(sigma, visits.covered, strict=True)]
    return np.array(medians)[:, None] * np.where(visits.mask & _SIG_SKYLINE, 10.0, 1.0)


def weighted_mean(
    flux: Floats, sigma: Floats, continuum: Floats, used: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """The mean of spectra on the scale of their mean continuum, and its error.

    Parameters
    ----------
    flux, continuum
        ``(n, 8575)``.
    sigma
        The errors to weight by, in units of the continuum, ``(n, 8575)``.
    used
        Which pixels count, ``(n, 8575)``.

    Returns
    -------
    flux, error
        ``(8575,)`` each, NaN and inf where no pixel counts.
    """
    weight = np.where(used, sigma**-2, 0.0)
    total, scale = weight.sum(axis=0), continuum.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weight * flux / continuum).sum(axis=0) / total * scale, total**-0.5 * scale


def _coadd_masks(visits: Visits, layout: Layout) -> Rows:
    """Row 0 and 1: OR and AND of the visits that cover a pixel in DR12-16, later AND and 0."""
    mask = np.where(visits.covered, visits.mask, 0)
    if layout == "dr13":
        every = np.bitwise_and.reduce(np.where(visits.covered, visits.mask, -1), axis=0)
        return np.stack([np.bitwise_or.reduce(mask, axis=0), every])
    every = np.bitwise_and.reduce(mask, axis=0)
    return np.stack([every, np.zeros_like(every)])


def _mean_of_covering(image: Rows, visits: Visits, power: int, layout: Layout) -> Rows:
    """Rows 0 and 1 of sky and telluric images: later reductions than DR16 leave them zero.

    Errors add in squares (``power`` 2).
    """
    rows = np.zeros((min(len(image), 2), image.shape[1]))
    if layout == "dr13":
        total = (image.astype(np.float64) ** power).sum(axis=0) ** (1 / power)
        rows[:] = total / np.maximum(visits.covered.sum(axis=0), 1)
    return rows


def _marked(
    flux: Floats, error: Floats, present: NDArray[np.bool_], missing: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Flux and error with the values that stand for no data where there are none."""
    return np.where(present, flux, missing[0]), np.where(present, error, missing[1])


def _as_rows(coadd: Rows, visit: Rows, layout: Layout) -> Rows:
    if len(visit) > 1:
        return np.concatenate([coadd, visit])
    if layout == "dr13":
        return np.asarray(coadd[0])
    return np.concatenate([coadd, np.zeros_like(coadd)]) if layout == "dr17" else coadd
