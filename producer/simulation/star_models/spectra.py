"""Spectra of stars as published models predict them, from Teff, log g, [Fe/H] and [alpha/Fe].

The formulas and the sources of the numbers are in the README beside them. Each model gives the
continuum-normalised flux of the 7214 pixels that ASPCAP uses, at rest, seen by the instrument.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from producer.simulation.star_models import Model
from worker.array_types import Floats, Singles
from worker.spectra.pixels import N_APSTAR

#: Where the pixels of the models lie in an apStar row, chip by chip.
_SEEN = (slice(322, 3242), slice(3648, 6048), slice(6412, 8306))
#: Where they lie in the models' own arrays.
_CHIPS = (slice(0, 2920), slice(2920, 5320), slice(5320, 7214))
#: What lies between and beside them.
_UNSEEN = (slice(0, 322), slice(3242, 3648), slice(6048, 6412), slice(8306, N_APSTAR))
#: Degree of the polynomials that the synthetic spectra's continuum is taken out with.
_DEGREE = 4
#: Errors of the models are as wide as a line: Gaussian sigma in pixels.
_ERROR_WIDTH = 1.0


@dataclass(frozen=True)
class PixelNetworks:
    """One small network for each pixel (El-Badry et al. 2018, MNRAS 473, 5043).

    ``hidden`` is ``(7214, 5, k)`` for k labels, ``output`` ``(7214, 5)``; biases accordingly.
    """

    hidden: Singles
    hidden_bias: Singles
    output: Singles
    output_bias: Singles
    lowest: Floats
    highest: Floats

    def __call__(self, parameters: Floats) -> Floats:
        """The flux of one star, ``(7214,)``, of its ``(k,)`` labels."""
        scaled = (parameters - self.lowest) / (self.highest - self.lowest) - 0.5
        values = 1 / (1 + np.exp(-(self.hidden @ scaled + self.hidden_bias)))
        return np.asarray(np.einsum("ph,ph->p", self.output, values) + self.output_bias)


@dataclass(frozen=True)
class QuadraticModel:
    """A polynomial of second degree for each pixel (Ness et al. 2015, ApJ 808, 16)."""

    coefficients: Singles
    baseline: Floats

    def __call__(self, parameters: Floats) -> Floats:
        """The flux of one star, ``(7214,)``, of its ``(4,)`` labels."""
        differences = parameters - self.baseline
        rows, columns = np.triu_indices(len(differences))
        products = differences[rows] * differences[columns]
        return np.asarray(np.concatenate([[1.0], differences, products]) @ self.coefficients)


def numbers(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of one of the files beside this module."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        return dict(file)


def rest_spectrum(model: Model, parameters: Floats) -> Floats:
    """The continuum-normalised flux of a star, ``(7214,)``.

    Parameters
    ----------
    parameters
        Teff (K), log g, [Fe/H] and [alpha/Fe]; for dwarfs the broadening in km/s too.
    """
    flux = _predictor(model)(parameters)
    return _without_continuum(flux) if model == Model.SYNTHETIC else flux


def on_apstar_grid(flux: Floats, rng: np.random.Generator) -> Singles:
    """A model's flux as an apStar row, ``(8575,)``, where it says nothing with other pixels of it.

    A network that learns from such rows learns to ignore those pixels: they look like a
    spectrum's and tell nothing. Left constant they would look unlike any star's.
    """
    row = np.empty(N_APSTAR, dtype=np.float32)
    for seen, chip in zip(_SEEN, _CHIPS, strict=True):
        row[seen] = flux[chip]
    for unseen in _UNSEEN:
        length = unseen.stop - unseen.start
        first = rng.integers(len(flux) - length)
        row[unseen] = flux[first : first + length]
    return row


def model_error(rng: np.random.Generator) -> Floats:
    """How far a star may lie from its model, ``(7214,)``: up to the giants' intrinsic scatter.

    Some follow their model better than others. The error is the star's own and the same in all
    its visits. Neighbouring pixels err together, as lines do.
    """
    scatter = _scatter() * rng.random()
    frequency = np.fft.rfftfreq(len(scatter))
    kernel = np.exp(-2 * (np.pi * frequency * _ERROR_WIDTH) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(scatter))) * kernel, len(scatter))
    return np.asarray(scatter * smooth / np.sqrt(np.mean(kernel**2)))


@cache
def _predictor(model: Model) -> PixelNetworks | QuadraticModel:
    file = numbers(model)
    if model == Model.GIANTS:
        return QuadraticModel(file["coefficients"], file["baseline"])
    names = ("w_array_0", "b_array_0", "w_array_1", "b_array_1", "x_min", "x_max")
    return PixelNetworks(*(file[name] for name in names))


@cache
def _scatter() -> Floats:
    return numbers(Model.GIANTS)["scatter"].astype(np.float64)


@cache
def _grid() -> dict[str, NDArray[Any]]:
    return numbers("grid")


def _without_continuum(flux_per_frequency: Floats) -> Floats:
    """A spectrum per unit frequency as one per unit wavelength, chip by chip about 1."""
    grid = _grid()
    flux = flux_per_frequency / grid["wavelength"] ** 2
    flux /= flux.mean()
    for chip in _CHIPS:
        place = np.linspace(-1, 1, chip.stop - chip.start)
        fitted = grid["continuum_pixels"][chip]
        polynomial = chebyshev.chebfit(place[fitted], flux[chip][fitted], _DEGREE)
        flux[chip] /= chebyshev.chebval(place, polynomial)
    return np.asarray(flux)
