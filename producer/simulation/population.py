"""The stars of the simulated survey: 22 labels from a plausible joint distribution.

Giants and dwarfs of a thin disc, a thick disc and a halo, as APOGEE sees them: red giants along
a branch that moves with metallicity, the red clump, dwarfs along a main sequence with evolved
stars at its hot end. The alpha elements follow two sequences; carbon goes down and nitrogen up
after the first dredge-up. None of this is a measurement: the relations are round numbers in the
shape of those of Hayden et al. 2015 (ApJ 808, 132) and Weinberg et al. 2019 (ApJ 874, 102).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.labels import LABEL_NAMES

#: How many uniform and normal random numbers a star's labels take.
N_UNIFORM, N_NORMAL = 6, 30

_GIANTS = 0.65
_CLUMP = 0.25
#: Thin disc, thick disc, halo: their shares, mean [Fe/H] and its spread. The halo is more than
#: its share of the sky, so that a network sees metal-poor stars.
_SHARES = np.array([0.58, 0.30, 0.12])
_FE_H_MEAN = np.array([-0.05, -0.45, -1.35])
_FE_H_SPREAD = np.array([0.22, 0.27, 0.40])
_FE_H_RANGE = (-2.4, 0.5)

#: [X/Fe] = share of [alpha/Fe] + slope with [Fe/H] + spread.
_X_FE: dict[str, tuple[float, float, float]] = {
    "c_h": (0.20, 0.05, 0.05),
    "n_h": (0.00, 0.10, 0.06),
    "o_h": (1.10, 0.00, 0.04),
    "na_h": (0.00, 0.12, 0.07),
    "mg_h": (1.15, 0.00, 0.03),
    "al_h": (0.50, 0.05, 0.06),
    "si_h": (0.80, 0.00, 0.03),
    "p_h": (0.30, 0.00, 0.08),
    "s_h": (0.80, 0.00, 0.05),
    "k_h": (0.30, 0.00, 0.05),
    "ca_h": (0.60, 0.00, 0.03),
    "ti_h": (0.70, 0.00, 0.05),
    "v_h": (0.20, 0.05, 0.06),
    "cr_h": (0.00, 0.00, 0.04),
    "mn_h": (0.00, 0.18, 0.04),
    "co_h": (0.20, 0.05, 0.05),
    "ni_h": (0.08, 0.00, 0.03),
}
#: Labels that measure an element a second time, close to the first.
_SECOND: dict[str, tuple[str, float]] = {"c_1_h": ("c_h", 0.03), "ti_2_h": ("ti_h", 0.04)}
#: One star in seven has abundances of its own, so that no label follows from the others.
_PECULIAR, _PECULIAR_SPREAD = 0.15, 0.18
#: One in fifty is a star of a globular cluster's second generation.
_SECOND_GENERATION = 0.02
_SECOND_GENERATION_CHANGES = {
    "c_h": -0.4,
    "n_h": 0.8,
    "o_h": -0.35,
    "na_h": 0.4,
    "mg_h": -0.1,
    "al_h": 0.6,
}


def draw_labels(uniform: Floats, normal: Floats) -> Floats:
    """Labels of stars from their random numbers.

    Parameters
    ----------
    uniform, normal
        ``(n, 6)`` in [0, 1) and ``(n, 30)`` of the standard normal distribution.

    Returns
    -------
    ndarray
        ``(n, 22)`` in the order of :data:`worker.labels.LABELS`: K, then dex.
    """
    member = np.searchsorted(np.cumsum(_SHARES)[:-1], uniform[:, 0])
    fe_h = np.clip(_FE_H_MEAN[member] + _FE_H_SPREAD[member] * normal[:, 0], *_FE_H_RANGE)
    alpha = _alpha(member, fe_h, normal[:, 1])
    giant = uniform[:, 1] < _GIANTS
    branch = giants(uniform[:, 2], uniform[:, 3], normal[:, 2], fe_h, alpha)
    sequence = dwarfs(uniform[:, 2], uniform[:, 3], normal[:, 2])
    teff, logg = np.where(giant, branch, sequence)
    labels = {"teff": teff, "logg": logg, "fe_h": fe_h}
    labels |= _abundances(fe_h, alpha, uniform[:, 4:6], normal[:, 3:])
    _dredge_up(labels, giant)
    for name, (first, spread) in _SECOND.items():
        labels[name] = labels[first] + spread * normal[:, 3 + list(_SECOND).index(name)]
    return np.column_stack([labels[name] for name in LABEL_NAMES])


def _alpha(member: NDArray[np.int_], fe_h: Floats, normal: Floats) -> Floats:
    """[alpha/Fe]: a low sequence for the thin disc, a high one for thick disc and halo."""
    low = 0.02 - 0.10 * fe_h + 0.02 * normal
    high = np.clip(0.19 - 0.18 * (fe_h + 0.3), 0.02, 0.30) + 0.03 * normal
    return np.where(member == 0, low, high)


def giants(
    clump: Floats, height: Floats, normal: Floats, fe_h: Floats, alpha: Floats
) -> tuple[Floats, Floats]:
    """Teff and log g along the giant branch, fewer towards its tip, and of the red clump."""
    growth, lowest, highest = 0.35, 0.3, 3.6
    low, high = 10 ** (growth * lowest), 10 ** (growth * highest)
    branch_logg = np.log10(low + height * (high - low)) / growth
    branch_teff = 3520 + 520 * branch_logg - 27 * branch_logg**2
    branch_teff += -240 * fe_h - 100 * alpha + 80 * normal
    in_clump = clump < _CLUMP
    logg = np.where(in_clump, 2.45 + 0.3 * (height - 0.5), branch_logg)
    teff = np.where(in_clump, 4830 - 230 * fe_h + 70 * normal, branch_teff)
    return np.clip(teff, 3300, 5900), logg


def dwarfs(place: Floats, age: Floats, normal: Floats) -> tuple[Floats, Floats]:
    """Teff and log g along the main sequence, its hot end evolved towards lower gravity."""
    teff = 3600 + 3200 * place
    evolved = 0.75 * age**2 * np.clip((teff - 4900) / 1200, 0, 1)
    return teff, 4.78 - 0.12 * (teff - 3600) / 1000 - evolved + 0.03 * normal


def _abundances(fe_h: Floats, alpha: Floats, uniform: Floats, normal: Floats) -> dict[str, Floats]:
    peculiar = uniform[:, 0] < _PECULIAR
    second_generation = uniform[:, 1] < _SECOND_GENERATION
    abundances = {}
    for column, (name, (share, slope, spread)) in enumerate(_X_FE.items(), start=len(_SECOND)):
        spreads = np.where(peculiar, _PECULIAR_SPREAD, spread)
        change = second_generation * _SECOND_GENERATION_CHANGES.get(name, 0.0)
        x_fe = share * alpha + slope * fe_h + spreads * normal[:, column] + change
        abundances[name] = fe_h + x_fe
    return abundances


def _dredge_up(labels: dict[str, Floats], giant: NDArray[np.bool_]) -> None:
    """Carbon burnt to nitrogen: once at the base of the branch, a little more up to its tip."""
    mixed = np.where(giant, 1 + 0.25 * np.clip(2.5 - labels["logg"], 0, None), 0.0)
    labels["c_h"] = labels["c_h"] - 0.15 * mixed
    labels["n_h"] = labels["n_h"] + 0.25 * mixed
