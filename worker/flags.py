"""The quality flags of a result: one enumeration, one function that sets them."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from worker.labels import LABEL_NAMES


class ResultFlag(IntFlag):
    """The bits of ``result_flags``."""

    UNCERTAIN_LOGG = 1 << 0
    UNCERTAIN_TEFF = 1 << 1
    UNCERTAIN_FE_H = 1 << 2
    NO_RESULT = 1 << 11


DESCRIPTIONS: dict[ResultFlag, str] = {
    ResultFlag.UNCERTAIN_LOGG: "e_logg > 0.2 and abs(e_logg / logg) > 0.075",
    ResultFlag.UNCERTAIN_TEFF: "e_teff > 300",
    ResultFlag.UNCERTAIN_FE_H: "abs(e_fe_h / fe_h) > 0.12",
    ResultFlag.NO_RESULT: "no labels: the spectrum could not be loaded or carries no information",
}

#: ``flag_bad`` is set when all of these are.
BAD = ResultFlag.UNCERTAIN_LOGG | ResultFlag.UNCERTAIN_TEFF | ResultFlag.UNCERTAIN_FE_H


def flag_uncertain(labels: NDArray[np.float64], e_labels: NDArray[np.float64]) -> NDArray[np.int64]:
    """The flags of spectra that have labels.

    Parameters
    ----------
    labels, e_labels
        ``(n, 22)`` labels and calibrated uncertainties.

    Returns
    -------
    ndarray
        ``(n,)`` bits of :class:`ResultFlag`.
    """
    teff, logg, fe_h = (LABEL_NAMES.index(name) for name in ("teff", "logg", "fe_h"))
    e_teff, e_logg = e_labels[:, teff], e_labels[:, logg]
    relative = _relative(labels, e_labels)
    uncertain = {
        ResultFlag.UNCERTAIN_LOGG: (e_logg > 0.2) & (relative[:, logg] > 0.075),
        ResultFlag.UNCERTAIN_TEFF: e_teff > 300,
        ResultFlag.UNCERTAIN_FE_H: relative[:, fe_h] > 0.12,
    }
    flags = np.zeros(len(labels), dtype=np.int64)
    for flag, rows in uncertain.items():
        flags[rows] |= flag.value
    return flags


def _relative(labels: NDArray[np.float64], e_labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """``abs(e / label)``; a label of zero counts as infinitely uncertain."""
    ratio = np.full_like(labels, np.inf)
    np.divide(e_labels, labels, out=ratio, where=labels != 0)
    return np.abs(ratio)
