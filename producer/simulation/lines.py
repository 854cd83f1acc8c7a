"""The forward model of the simulated survey: labels to a spectrum without noise.

Every element absorbs in the pixels of its own ASPCAP windows and nowhere else. A line's strength
grows with the abundance and follows temperature by its excitation (Boltzmann) and gravity by its
ionisation; strong lines saturate, later where the microturbulence is higher. Molecules (CO in
the windows of C, CN in those of N, OH in those of O) vanish with temperature; hydrogen's Brackett
lines come with it and widen with gravity. Positions and strengths of lines are drawn once from a
fixed seed. Only the Brackett lines and the CO band heads lie where they do in the sky: the
spectra look like APOGEE's and behave like them, they do not reproduce a star.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Reals
from worker.labels import LABEL_NAMES, LABELS
from worker.spectra.pixels import CHIPS, CUT_CHIPS, N_APSTAR
from worker.spectra.windows import element_window

_LINE_LIST_SEED = 2019
#: Width of a line before the instrument, in pixels (Gaussian sigma): thermal and turbulent.
_LINE_WIDTH = 0.8
#: Collisions widen strong lines in dwarfs: wings of this half width in pixels, a share of the
#: square of the line's strength, growing with gravity.
_WING_WIDTH, _DAMPING, _WING_GRAVITY = 3.0, 0.15, 0.40
#: Lines are sorted into these excitation energies (eV).
_EXCITATIONS = (0.5, 2.5, 5.0)
_REFERENCE_TEFF = 4750.0
#: The deepest that a saturated line gets at a microturbulence of 1 km/s, as a share of the flux.
_DEEPEST = 0.55
#: A line's strength grows with this power of the abundance: between the linear part of the
#: curve of growth (1) and its flat part (0), where most of the visible lines lie.
_GROWTH = 0.7
_RYDBERG_HYDROGEN = 1.0967758e-3  # per Angstrom
_BRACKETT = range(10, 24)
#: Half widths of the Brackett templates in pixels; stars lie between two of them.
_BRACKETT_WIDTHS = np.array([6.0, 12.0, 24.0, 48.0, 96.0])
#: Heads of the CO bands 3-0, 4-1, 5-2, 6-3, 7-4 and 8-5 (Angstrom, vacuum).
_CO_HEADS = (15582.0, 15780.0, 15982.0, 16189.0, 16397.0, 16610.0)
#: Elements whose wide windows hold those of others; they are weaker in them.
_EVERYWHERE = ("C", "N", "Fe")
_WEAKER = 0.2


@dataclass(frozen=True)
class _Species:
    """How the lines of one label are drawn, and how they follow temperature and gravity.

    ``strength`` is the median optical depth of a line in a giant of solar abundances,
    ``spacing`` the mean distance of lines in pixels of the window. With ``molecule`` the
    strength falls by that many powers of ten per 1000 K; ``gravity`` is the power of ten per
    dex of log g.
    """

    strength: float
    spacing: float = 4.0
    molecule: float = 0.0
    gravity: float = 0.06
    excitation: tuple[float, float] = (0.0, 6.0)


_ATOM = _Species(0.45)
_ION = _Species(0.6, gravity=-0.30, excitation=(1.0, 6.0))
_SPECIES: dict[str, tuple[_Species, ...]] = {
    "C": (_Species(0.10, spacing=5.0, molecule=0.75, gravity=-0.12),),
    "C1": (_Species(0.20, spacing=12.0, gravity=-0.25, excitation=(5.0, 7.0)),),
    "N": (_Species(0.08, spacing=6.0, molecule=0.55, gravity=-0.10),),
    "O": (_Species(0.25, spacing=5.0, molecule=0.80, gravity=-0.05),),
    "Na": (_Species(0.5),),
    "P": (_Species(0.5, excitation=(3.0, 6.0)),),
    "S": (_Species(0.7, excitation=(3.0, 6.0)),),
    "K": (_Species(0.7, excitation=(0.0, 3.0)),),
    "TiII": (_ION,),
    "Fe": (_Species(0.25, spacing=7.0), replace(_ION, strength=0.35, spacing=18.0)),
}


@dataclass(frozen=True)
class SpectrumModel:
    """Templates of optical depth on the apStar grid, a row per label and excitation energy.

    ``metals`` is ``(rows, 8575)``, ``brackett`` ``(5, 8575)``. ``column``, ``excitation``,
    ``molecule`` and ``gravity`` tell for each row of ``metals`` its label and its behaviour.
    """

    metals: NDArray[np.float32]
    column: NDArray[np.int_]
    excitation: NDArray[np.float64]
    molecule: NDArray[np.float64]
    gravity: NDArray[np.float64]
    brackett: NDArray[np.float32]

    def __call__(self, labels: NDArray[np.float64]) -> NDArray[np.float32]:
        """Continuum-normalised spectra before the broadening by star and instrument.

        Parameters
        ----------
        labels
            ``(n, 22)`` in the order of :data:`worker.labels.LABELS`.

        Returns
        -------
        ndarray
            ``(n, 8575)`` on the apStar grid, in the star's rest frame.
        """
        depth = self.strengths(labels).astype(np.float32) @ self.metals
        deepest = (_DEEPEST * microturbulence(labels[:, _LOGG]) ** 0.5).astype(np.float32)
        depth /= 1 + depth / deepest[:, None]
        weights = _brackett_weights(labels[:, _TEFF], labels[:, _LOGG]).astype(np.float32)
        return np.asarray((1 - depth) * (1 - weights @ self.brackett), dtype=np.float32)

    def strengths(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """How strong each row of ``metals`` is in each star, ``(n, rows)``; 1 in the reference."""
        teff, logg = labels[:, _TEFF, None], labels[:, _LOGG, None]
        inverse = 5040.0 / teff - 5040.0 / _REFERENCE_TEFF
        # Neutral metals lose to ionisation in warm stars; high excitation gains.
        exponent = (1.6 - 0.6 * self.excitation) * inverse
        exponent = exponent - self.molecule * (teff - _REFERENCE_TEFF) / 1000.0
        exponent = exponent + self.gravity * (logg - 2.5)
        return np.asarray(10 ** (np.clip(exponent, -3.0, 0.7) + _GROWTH * labels[:, self.column]))


_TEFF, _LOGG = LABEL_NAMES.index("teff"), LABEL_NAMES.index("logg")


def microturbulence(logg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Microturbulence in km/s from log g, as ASPCAP ties them for giants (Holtzman et al. 2018)."""
    exponent = 0.226 - 0.0228 * logg + 0.0297 * logg**2 - 0.0113 * logg**3
    return np.asarray(np.maximum(10**exponent, 0.6))


@cache
def spectrum_model() -> SpectrumModel:
    """The forward model; its line list never changes."""
    rows: list[Reals] = []
    column: list[int] = []
    excitation: list[float] = []
    molecule: list[float] = []
    gravity: list[float] = []
    for number, label in enumerate(LABELS):
        element = "Fe" if label.name == "fe_h" else label.element
        if element is None:
            continue
        rng = np.random.default_rng([_LINE_LIST_SEED, *element.encode()])
        for species in _SPECIES.get(element, (_ATOM,)):
            cores, wings = _templates(rng, element, species)
            rows.extend([*cores, *wings])
            column.extend([number] * 2 * len(_EXCITATIONS))
            excitation.extend(_EXCITATIONS * 2)
            molecule.extend([species.molecule] * 2 * len(_EXCITATIONS))
            gravity.extend([species.gravity] * len(_EXCITATIONS))
            gravity.extend([species.gravity + _WING_GRAVITY] * len(_EXCITATIONS))
    return SpectrumModel(
        metals=np.array(rows, dtype=np.float32),
        column=np.array(column),
        excitation=np.array(excitation),
        molecule=np.array(molecule),
        gravity=np.array(gravity),
        brackett=_brackett_templates(),
    )


def _templates(rng: np.random.Generator, element: str, species: _Species) -> tuple[Reals, Reals]:
    """Optical depth of an element's lines within its windows, by excitation.

    Cores and wings, ``(3, 8575)`` each; molecules have no wings.
    """
    window = on_apstar_grid(element_window(element))
    pixels = np.flatnonzero(window)
    count = max(round(pixels.size / species.spacing), 2)
    centres = np.sort(rng.choice(pixels, count, replace=False)) + rng.uniform(-0.5, 0.5, count)
    strengths = species.strength * 10 ** np.clip(rng.normal(0.0, 0.35, count), -0.8, 0.6)
    if element == "C":
        strengths *= _band_shape(centres)
    energies = rng.uniform(*species.excitation, count)
    nearest = np.argmin(np.abs(energies[:, None] - np.array(_EXCITATIONS)), axis=1)
    cores, wings = np.zeros((2, len(_EXCITATIONS), N_APSTAR))
    grid = np.arange(N_APSTAR)
    damping = 0.0 if species.molecule else _DAMPING
    for centre, strength, group in zip(centres, strengths, nearest, strict=True):
        distance = grid - centre
        cores[group] += strength * np.exp(-0.5 * (distance / _LINE_WIDTH) ** 2)
        wings[group] += damping * strength**2 / (1 + (distance / _WING_WIDTH) ** 2)
    seen = window * np.where(_others_windows() & (element in _EVERYWHERE), _WEAKER, 1.0)
    return cores * seen, wings * seen


def _band_shape(centres: Reals) -> Reals:
    """CO: strong at a band head, weaker towards the red."""
    wavelengths = 10 ** (4.179 + 6e-6 * centres)
    distance = wavelengths[:, None] - np.array(_CO_HEADS)
    behind = np.where(distance > 0, np.exp(-distance / 60.0), 0.0)
    return np.asarray(0.5 + 3.0 * behind.sum(axis=1))


@cache
def _others_windows() -> NDArray[np.bool_]:
    """The windows of the elements that have few pixels."""
    elements = [label.element for label in LABELS if label.element is not None]
    few = [element_window(each) for each in elements if each not in (*_EVERYWHERE, "C1", "O")]
    return on_apstar_grid(np.any(few, axis=0))


def on_apstar_grid(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the 7514 that the network reads, as pixels of an apStar row."""
    row = np.zeros(N_APSTAR, dtype=np.bool_)
    for chip, cut in zip(CHIPS.values(), CUT_CHIPS.values(), strict=True):
        row[chip] = pixels[cut]
    return row


def _brackett_templates() -> NDArray[np.float32]:
    """Lorentz profiles of unit depth at Brackett 10 to 23, one row for each width."""
    upper = np.array(_BRACKETT, dtype=np.float64)
    wavelengths = 1 / (_RYDBERG_HYDROGEN * (1 / 16 - 1 / upper**2))
    centres = (np.log10(wavelengths) - 4.179) / 6e-6
    distance = np.arange(N_APSTAR)[:, None] - centres
    widths = _BRACKETT_WIDTHS[:, None, None]
    profiles = 1 / (1 + (distance / widths) ** 2)
    # Higher members are weaker, and dissolve into each other.
    return np.asarray((profiles * (11.0 / upper) ** 2).sum(axis=2), dtype=np.float32)


def _brackett_weights(teff: NDArray[np.float64], logg: NDArray[np.float64]) -> Reals:
    """Depth of the Brackett lines shared out to the two nearest widths, ``(n, 5)``."""
    depth = 0.16 / (1 + np.exp(-(teff - 6200.0) / 420.0))
    width = 24.0 * 10 ** (0.25 * (logg - 4.0))
    place = np.clip(np.log2(width / _BRACKETT_WIDTHS[0]), 0, _BRACKETT_WIDTHS.size - 1)
    near = np.clip(1 - np.abs(place[:, None] - np.arange(_BRACKETT_WIDTHS.size)), 0, 1)
    return np.asarray(depth[:, None] * near)
