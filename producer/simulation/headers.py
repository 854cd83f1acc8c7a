"""The primary headers of simulated apStar files, with the cards that each era has.

DR13's cards are those of the real files, DR17's and SDSS-V's those that ``apstar.py`` of
sdss/apogee and ``rv.py`` of sdss/apogee_drp write. Left out are what a simulated star has none of:
targeting flags, photometry beyond J, H and K, and the shapes of cross-correlation functions. The
radial velocities are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import reduce
from operator import and_, or_

import numpy as np
from numpy.typing import NDArray

from producer.simulation.layouts import CHIPS, Planes
from producer.simulation.names import REDUCTIONS, field_name, visit_names
from producer.simulation.observation import Layout, Star, Visits
from producer.sources.healpix import ring_pixel
from worker.labels import LABEL_NAMES
from worker.spectra.pixels import N_APSTAR
from worker.version import __version__

#: Keyword, value and comment.
Card = tuple[str, str | int | float, str]

_MJD_ZERO_JD = 2400000.5
_MJD_ZERO = datetime(1858, 11, 17)  # without a zone, as theirs are
#: Bits of APOGEE_STARFLAG: a visit of low S/N, and ones with persistence in a fifth of its pixels.
_LOW_SNR, _PERSISTENCE = 4, (9, 10, 11)
#: Steps of the grids of templates that the real reductions take these from.
_TEMPLATE_STEPS = {"teff": 250.0, "logg": 0.5, "fe_h": 0.25}
_NOTICE = (
    f"Simulated by astronn-stream {__version__} simulate: no telescope saw this",
    "star. Its true labels are in truth.ecsv of the survey's folder.",
)


def primary_cards(star: Star, visits: Visits, layout: Layout, planes: Planes) -> Iterator[Card]:
    """The cards of the primary header after the mandatory ones.

    How many there are, their keywords and their comments depend on the layout, the number of
    visits and whether the star is like a model alone.
    """
    yield "SIMULATE", True, "simulated spectrum, astronn-stream simulate"
    if star.model is not None:
        yield "STARLIKE", star.model.value, "model of real spectra that it is computed from"
    for line in _NOTICE:
        yield "COMMENT", line, ""
    yield "OBJID", star.obj, "Object ID"
    yield from _survey_cards(star, visits, layout)
    yield "RA", star.ra, "right ascension, deg, J2000"
    yield "DEC", star.dec, "declination, deg, J2000"
    yield "NVISITS", len(visits.snr), "number of visit spectra combined"
    yield "SNR", median_snr(planes, 0), "final median Signal/Noise ratio"
    flags = visit_flags(visits)
    yield "STARFLAG", reduce(or_, flags), "bitwise OR of individual visit starflags"
    yield "ANDFLAG", reduce(and_, flags), "bitwise AND of individual visit starflags"
    yield from _velocity_cards(star, visits, layout)
    yield from _fiber_cards(visits)
    for n, name in enumerate(visit_names(star, visits, layout)):
        yield from _visit_cards(n, name, star, visits, layout, planes)
        yield f"FLAG{n + 1}", flags[n], f"STARFLAG for visit {n + 1}"
    if layout != "sdss5":
        yield from _chip_cards(visits)
    yield "NWAVE", N_APSTAR, "Number of wavelengths in subsequent HDUs"
    yield from wavelength_cards()


def wavelength_cards() -> Iterator[Card]:
    """The wavelengths of the grid, as the primary header and those of the images have them."""
    yield "CRVAL1", 4.179, "Start log10(wavelength)"
    yield "CDELT1", 6e-6, "Dispersion in log10(wavelength)"
    yield "CRPIX1", 1, "Pixel of starting wavelength"
    yield "CTYPE1", "LOG-LINEAR", "Logarithmic wavelength scale"
    yield "DC-FLAG", 1, "Logarithmic wavelength scale"


def median_snr(planes: Planes, row: int) -> float:
    """The signal-to-noise ratio of a row as the reductions take it, over all pixels with data."""
    flux, error = np.atleast_2d(planes.flux)[row], np.atleast_2d(planes.error)[row]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nanmedian(flux / error))


def visit_flags(visits: Visits) -> list[int]:
    """APOGEE_STARFLAG of each visit."""
    flags = []
    for snr, mask, covered in zip(visits.snr, visits.mask, visits.covered, strict=True):
        flag = 1 << _LOW_SNR if snr < 5 else 0
        for bit in _PERSISTENCE:
            if np.count_nonzero(mask[covered] & (1 << bit)) > 0.2 * covered.sum():
                flag |= 1 << bit
        flags.append(flag)
    return flags


def velocity_errors(visits: Visits) -> NDArray[np.float64]:
    """Errors of the visits' radial velocities in km/s, of a size that real ones have."""
    return np.asarray(np.hypot(0.02, 5.0 / visits.snr))


def template(star: Star) -> tuple[float, float, float]:
    """Teff, log g and [Fe/H] of the template that radial velocities are measured with."""
    labels = [float(star.labels[LABEL_NAMES.index(name)]) for name in _TEMPLATE_STEPS]
    steps = _TEMPLATE_STEPS.values()
    teff, logg, fe_h = (
        round(label / step) * step for label, step in zip(labels, steps, strict=True)
    )
    return teff, logg, fe_h


def _survey_cards(star: Star, visits: Visits, layout: Layout) -> Iterator[Card]:
    magnitude = "{}MAG" if layout == "sdss5" else "{}"
    for band, value in zip("JHK", star.magnitudes, strict=True):
        yield magnitude.format(band), value, f"2MASS {band} magnitude"
    if layout == "dr13":
        yield "SURVEY", "apogee", "Survey name (for targeting flags)"
        yield "TELESCOP", star.telescope, "Telescope"
        yield "LOCID", star.location, "LocationID"
    if layout != "sdss5":
        yield "FIELD", field_name(star), "Field name"
    else:
        yield "HEALPIX", ring_pixel(star.ra, star.dec), "HEALPix location"
        yield "APRED", REDUCTIONS[layout], "APOGEE reduction version"
        yield "V_APRED", "simulated", "APOGEE software version"
        yield "STARVER", f"{visits.mjd.max()}", "apStar version"
        yield "CATID", 0, "SDSS-V catalog ID"


def _velocity_cards(star: Star, visits: Visits, layout: Layout) -> Iterator[Card]:
    errors = velocity_errors(visits)
    if layout == "dr13":
        yield "VRAD", 0.0, "Doppler shift (km/s) of this spectrum"
    mean = "VRAD" if layout == "sdss5" else "VHELIO"
    yield mean, star.v_helio, "mean barycentric velocity (km/s)"
    yield "VSCATTER", 0.0, f"STDEV of {mean} (km/s)"
    error = np.sqrt(np.sum((errors * visits.snr) ** 2)) / visits.snr.sum()
    yield "VERR", float(error), f"weighted error in {mean} (km/s)"
    yield "VERR_MED", float(np.median(errors)), f"median error in {mean} (km/s)"
    prefix = "RV" if layout == "dr13" else "RV_"
    for name, value in zip(("TEFF", "LOGG", "FEH"), template(star), strict=True):
        yield f"{prefix}{name}", value, "of the template for radial velocities"


def _fiber_cards(visits: Visits) -> Iterator[Card]:
    mean = float(np.sum(visits.fiber * visits.snr) / np.sum(visits.snr))
    scatter = float(np.std(visits.fiber, ddof=1)) if len(visits.fiber) > 1 else 0.0
    yield "MEANFIB", mean, "S/N weighted mean fiber number"
    yield "SIGFIB", scatter, "standard deviation (unweighted) of fiber number"


def _visit_cards(
    n: int, name: str, star: Star, visits: Visits, layout: Layout, planes: Planes
) -> Iterator[Card]:
    number, jd, barycentric = n + 1, float(visits.jd[n]), float(visits.barycentric[n])
    seen = _MJD_ZERO + timedelta(days=jd - _MJD_ZERO_JD)
    yield "COMMENT", f"VISIT {number} INFORMATION:", ""
    yield f"SFILE{number}", name, f"Visit #{number} spectrum file"
    yield f"DATE{number}", seen.isoformat(timespec="milliseconds"), f"DATE-OBS of visit {number}"
    yield f"JD{number}", jd, f"Julian date of visit {number}"
    yield f"FIBER{number}", int(visits.fiber[n]), f"Fiber, visit {number}"
    yield f"BC{number}", barycentric, f"Barycentric correction (km/s), visit {number}"
    topocentric = star.v_helio - barycentric
    if layout == "sdss5":
        yield f"VREL{number}", topocentric, f"Doppler shift (km/s) of visit {number}"
        yield f"VRAD{number}", star.v_helio, f"Barycentric velocity (km/s), visit {number}"
    else:
        yield f"VRAD{number}", topocentric, f"Doppler shift (km/s) of visit {number}"
        yield f"VHELIO{number}", star.v_helio, f"Barycentric velocity (km/s), visit {number}"
    yield f"VERR{number}", float(velocity_errors(visits)[n]), "error in radial velocity (km/s)"
    yield f"SNRVIS{number}", _visit_snr(n, visits, layout, planes), "Signal/Noise ratio"


def _visit_snr(n: int, visits: Visits, layout: Layout, planes: Planes) -> float:
    """SNRVISn; DR17 takes it from row 2 on, and so finds none for an only visit."""
    if layout != "dr17":
        return float(visits.snr[n])
    return median_snr(planes, n + 2) if len(visits.snr) > 1 else 0.0


def _chip_cards(visits: Visits) -> Iterator[Card]:
    """First and last pixel of each chip, in any visit and in all."""
    in_any = np.logical_or.reduce(visits.covered)
    in_all = np.logical_and.reduce(visits.covered)
    for prefix, where, covered in (("", "any frame", in_any), ("OVER", "all frames", in_all)):
        for letter, chip in zip("RGB", reversed(CHIPS), strict=True):
            seen = np.flatnonzero(covered[chip]) + chip.start
            first, last = (int(seen[0]), int(seen[-1])) if seen.size else (0, 0)
            yield f"{letter}{prefix}MIN", first, f"Min pixel of chip contrib, {where}"
            yield f"{letter}{prefix}MAX", last, f"Max pixel of chip contrib, {where}"
