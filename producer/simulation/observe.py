"""Observing the simulated stars: broadening, detectors, noise, sky, telluric lines, bad pixels.

What belongs to the star is computed in its rest frame; what belongs to the telescope and the air
(the ends of the chips, sky lines, telluric bands, bad columns) stands still in the observer's
frame and so moves over the rest-frame grid with the topocentric velocity of each visit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producer.simulation.instrument import (
    PIXEL_KMS,
    Weather,
    bad_pixels,
    chip_response,
    coverage,
    in_rest_frame,
    sky_lines,
    telluric_transmission,
)
from producer.simulation.lines import microturbulence, spectrum_model
from producer.simulation.observation import Star, Visits
from producer.simulation.population import N_NORMAL, N_UNIFORM, draw_labels
from producer.simulation.star_models import Model
from producer.simulation.star_models.population import draw_parameters, labels_of
from producer.simulation.star_models.spectra import (
    model_error,
    on_apstar_grid,
    rest_spectrum,
)
from worker.array_types import Floats, Singles
from worker.labels import LABEL_NAMES
from worker.spectra.pixels import N_APSTAR

_TEFF, _LOGG, _FE_H = (LABEL_NAMES.index(name) for name in ("teff", "logg", "fe_h"))
#: Width of the instrument's line spread function in pixels (Gaussian sigma): R = 23600, a
#: little more than APOGEE's 22500.
_LSF = 1.30
#: Of its widths as shares of that; sharper lines would bring the noise of a model forth.
_SHARPEST = 0.94
#: Room at the end of the grid, so that the periodic convolution does not join both ends.
_PADDED = 8640
_FIRST_MJD, _NIGHTS = 58000, 1500
#: Flux of a star of tenth magnitude in H, in 1e-17 erg/s/cm2/Angstrom.
_TENTH_MAGNITUDE = 1100.0


@dataclass(frozen=True)
class Observing:
    """How the stars are observed.

    Attributes
    ----------
    visits
        Most visits to a star.
    visit_range
        Whether the number of visits is drawn from 1 to ``visits``; otherwise all have as many.
    snr
        The signal-to-noise ratios of visits, per pixel, are drawn between these, evenly in
        their logarithm.
    models
        The models of real stars that the stars are like, in turn; without any their spectra
        come from the simulator's own line list.
    """

    visits: int = 3
    visit_range: bool = True
    snr: tuple[float, float] = (10.0, 250.0)
    models: tuple[Model, ...] = ()

    def model_of(self, number: int) -> Model | None:
        """The model of a star; layouts take turns too, so three stars have the same one."""
        return self.models[number // 3 % len(self.models)] if self.models else None


@dataclass(frozen=True)
class _AtRest:
    """A star's continuum-normalised spectrum, ``(8575,)``, in its rest frame.

    Attributes
    ----------
    width
        Broadening by the star in pixels (Gaussian sigma), as far as the spectrum lacks it.
    lines_alone
        Whether it lacks the instrument's line spread function too.
    """

    spectrum: Singles
    width: float
    lines_alone: bool

    def broadening(self, factor: float) -> tuple[float, float]:
        """What is to be added for an instrument whose lines are wider than most by a factor.

        It is a width in pixels and the sign of its square: models of real spectra have lines
        of ordinary width, which some fibers see a little sharper.
        """
        if self.lines_alone:
            return float(np.hypot(self.width, _LSF * factor)), 1.0
        square = self.width**2 + _LSF**2 * (max(factor, _SHARPEST) ** 2 - 1)
        return float(np.sqrt(abs(square))), float(np.sign(square))


def simulate_stars(
    seed: int, numbers: Sequence[int], observing: Observing
) -> list[tuple[Star, Visits]]:
    """Stars of the survey and their visits.

    A star depends on the seed, its number and ``observing`` alone, not on the other stars of
    the call; a later visit does not change an earlier one.
    """
    made = []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        uniform, normal = rng.random(N_UNIFORM), rng.standard_normal(N_NORMAL)
        model = observing.model_of(number)
        labels, parameters = _drawn(model, uniform, normal)
        star = _star(rng, labels, model)
        made.append((star, _visits(rng, star, parameters, observing)))
    return made


def _drawn(model: Model | None, uniform: Floats, normal: Floats) -> tuple[Floats, Floats]:
    """The 22 labels of a star, and what its spectrum is computed from."""
    if model is None:
        labels = draw_labels(uniform[None], normal[None])[0]
        return labels, labels
    parameters = draw_parameters(model, uniform, normal)
    return labels_of(model, parameters), parameters


def _star(rng: np.random.Generator, labels: Floats, model: Model | None) -> Star:
    ra, sine = rng.uniform(0, 360), rng.uniform(-0.9, 0.98)
    dec = float(np.degrees(np.arcsin(sine)))
    h = rng.uniform(7.0, 13.3)
    colour = 0.95 - 0.30 * (labels[_TEFF] - 4000) / 1000
    spread = 40.0 if labels[_FE_H] > -0.8 else 140.0
    return Star(
        obj=_name(ra, dec),
        ra=ra,
        dec=dec,
        magnitudes=(h + colour, h, h - 0.2 * colour),
        v_helio=float(spread * rng.standard_normal()),
        labels=labels,
        model=model,
        telescope="apo25m" if dec > -15 else "lco25m",
        location=4000 + int(ra / 10) * 40 + int((dec + 90) / 5),
    )


def _name(ra: float, dec: float) -> str:
    """The name in the 2MASS style: 2Mhhmmssss+ddmmsss, cut, not rounded, as theirs are."""
    hundredths = int(ra / 15 * 360000)
    hours, minutes = hundredths // 360000, hundredths // 6000 % 60
    tenths = int(abs(dec) * 36000)
    degrees, arcminutes = tenths // 36000, tenths // 600 % 60
    return (
        f"2M{hours:02d}{minutes:02d}{hundredths % 6000:04d}"
        f"{'-' if dec < 0 else '+'}{degrees:02d}{arcminutes:02d}{tenths % 600:03d}"
    )


def _visits(
    rng: np.random.Generator, star: Star, parameters: Floats, observing: Observing
) -> Visits:
    count = int(rng.integers(1, observing.visits + 1)) if observing.visit_range else None
    at_rest = _at_rest(rng, star, parameters)
    transform = np.fft.rfft(_padded(at_rest.spectrum))
    seen = [
        _visit(visit_rng, star, transform, at_rest, observing)
        for visit_rng in rng.spawn(count or observing.visits)
    ]
    return _in_order_of_time(seen)


def _at_rest(rng: np.random.Generator, star: Star, parameters: Floats) -> _AtRest:
    if star.model is None:
        # One at a time: a product of matrices may round differently with the number of its rows.
        spectrum = spectrum_model()(parameters[None])[0]
        return _AtRest(spectrum, _stellar_width(rng, star.labels), lines_alone=True)
    flux = rest_spectrum(star.model, parameters) + model_error(rng)
    # What is fitted to real stars has their turbulence, and the dwarfs' model has rotation too.
    width = _stellar_width(rng, star.labels) if star.model == Model.SYNTHETIC else 0.0
    return _AtRest(on_apstar_grid(flux, rng), width, lines_alone=False)


def _padded(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([spectrum, np.ones(_PADDED - N_APSTAR, dtype=np.float32)])


def _stellar_width(rng: np.random.Generator, labels: NDArray[np.float64]) -> float:
    """Broadening by macroturbulence and rotation in pixels (Gaussian sigma)."""
    teff, logg = labels[_TEFF], labels[_LOGG]
    macroturbulence = 10 ** (0.741 - 0.0998 * min(logg, 4.0))
    hot = max(teff - 5600.0, 0.0) / 1000.0
    rotation = 1.5 + rng.exponential(1.0 + 9.0 * hot)
    turbulence = microturbulence(np.array([logg]))[0]
    velocity = np.sqrt(macroturbulence**2 + turbulence**2 + rotation**2)
    return float(0.42 * velocity / PIXEL_KMS)


def _visit(
    rng: np.random.Generator,
    star: Star,
    transform: NDArray[np.complexfloating],
    at_rest: _AtRest,
    observing: Observing,
) -> dict[str, NDArray[np.generic]]:
    """One visit; the arrays of :class:`Visits` without their first axis."""
    mjd = _FIRST_MJD + int(rng.integers(_NIGHTS))
    fiber = int(rng.integers(1, 301))
    jd = mjd + 2400000.5 + rng.uniform(0.1, 0.45)
    barycentric = _barycentric(star, jd)
    snr = float(np.exp(rng.uniform(*np.log(observing.snr))))
    shift = (barycentric - star.v_helio) / PIXEL_KMS  # of the observer's frame on our grid
    weather = Weather.draw(rng)

    width, sign = at_rest.broadening(rng.normal(1.0, 0.03))
    seen = _broadened(transform, width, 0.03 * rng.standard_normal(), sign)
    level = _TENTH_MAGNITUDE * 10 ** (-0.4 * (star.magnitudes[1] - 10)) * rng.normal(1, 0.05)
    continuum = level * chip_response(rng, float(star.labels[_TEFF]))
    transmission = in_rest_frame(telluric_transmission(), shift) ** weather.airmass
    lines = in_rest_frame(sky_lines(), shift)
    covered = coverage(shift, fiber)

    object_error = continuum * np.sqrt(0.3 + 0.7 * seen) / snr
    sky_level = weather.sky * level / snr
    sky = sky_level * (0.5 + lines)
    e_sky = sky_level * np.sqrt(0.02 + 0.30 * lines)
    error = np.hypot(object_error, e_sky) / np.maximum(transmission, 0.3)
    flux = continuum * seen * (1 + weather.telluric_residual * (1 - transmission))
    flux = flux + weather.sky_residual * sky_level * lines
    flux = flux + error * rng.standard_normal(N_APSTAR, dtype=np.float32)
    mask, flux = bad_pixels(rng, flux, shift, fiber)
    mask |= np.where((lines > 0.3) & (e_sky > 0.5 * object_error), np.int32(1 << 12), np.int32(0))
    mask |= np.where(transmission < 0.75, np.int32(1 << 13), np.int32(0))
    in_windows = covered & (seen > 0.9)
    return {
        "flux": flux,
        "error": error,
        "mask": mask,
        "sky": sky,
        "e_sky": e_sky,
        "telluric": transmission,
        "e_telluric": 0.02 * (1 - transmission),
        "covered": covered,
        "plate": np.int64(5000 + star.location % 4000),
        "mjd": np.int64(mjd),
        "fiber": np.int64(fiber),
        "jd": np.float64(jd),
        "barycentric": np.float64(barycentric),
        "snr": np.float64(np.median(flux[in_windows] / error[in_windows])),
    }


def _barycentric(star: Star, jd: float) -> float:
    """The Earth's velocity towards the star in km/s, its orbit taken as a circle."""
    sun = 2 * np.pi * (jd - 2451624.8) / 365.2422  # ecliptic longitude since an equinox
    ra, dec = np.radians(star.ra), np.radians(star.dec)
    obliquity = np.radians(23.44)
    x = np.cos(dec) * np.cos(ra)
    y = np.cos(dec) * np.sin(ra) * np.cos(obliquity) + np.sin(dec) * np.sin(obliquity)
    return float(29.8 * (x * np.sin(sun) - y * np.cos(sun)))


def _broadened(
    transform: NDArray[np.complexfloating], width: float, shift: float, sign: float
) -> Singles:
    """A spectrum convolved with a Gaussian and moved, widths and shifts in pixels.

    With a negative sign the convolution is undone.
    """
    frequency = np.arange(transform.size) / _PADDED
    kernel = np.exp(-2 * sign * (np.pi * frequency * width) ** 2 - 2j * np.pi * frequency * shift)
    broadened = np.fft.irfft(transform * kernel, _PADDED)
    return np.asarray(broadened[:N_APSTAR], dtype=np.float32)


def _in_order_of_time(seen: list[dict[str, NDArray[np.generic]]]) -> Visits:
    seen = sorted(seen, key=lambda visit: float(visit["jd"]))
    columns = {name: np.array([visit[name] for visit in seen]) for name in seen[0]}
    for name in ("flux", "error", "sky", "e_sky", "telluric", "e_telluric"):
        columns[name] = columns[name].astype(np.float32)
    return Visits(**columns)
