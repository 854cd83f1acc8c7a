"""The quality flags of a result. A new one is a bit and, if it tells of a label, a rule.

All else derives: its column, its text, tables, pictures and pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.labels import LABEL_NAMES


class ResultFlag(IntFlag):
    """The bits of ``result_flags``."""

    UNCERTAIN_LOGG = 1 << 0
    UNCERTAIN_TEFF = 1 << 1
    UNCERTAIN_FE_H = 1 << 2
    NO_RESULT = 1 << 11
    UNLIKE_TRAINING = 1 << 16

    @property
    def label(self) -> str:
        """Its name in lower case, as in ``uncertain_logg``."""
        return str(self.name).lower()

    @property
    def column(self) -> str:
        """The column that tells of it, as ``flag_uncertain_logg``."""
        return f"flag_{self.label}"


@dataclass(frozen=True)
class Rule:
    """A label is uncertain when its uncertainty is above all bounds that are given.

    Parameters
    ----------
    above
        For the uncertainty, in the label's unit.
    relative
        For its ratio to the label; a label of zero counts as infinitely uncertain.
    """

    name: str
    above: float | None = None
    relative: float | None = None

    def __str__(self) -> str:
        conditions = []
        if self.above is not None:
            conditions.append(f"e_{self.name} > {self.above:g}")
        if self.relative is not None:
            conditions.append(f"abs(e_{self.name} / {self.name}) > {self.relative:g}")
        return " and ".join(conditions)

    def applies(self, label: Floats, e_label: Floats) -> NDArray[np.bool_]:
        """Whether each of some labels is uncertain; NaN, which is none, is not."""
        uncertain = ~np.isnan(label + e_label)
        if self.above is not None:
            uncertain &= e_label > self.above
        if self.relative is not None:
            ratio = np.full_like(label, np.inf)
            np.divide(e_label, label, out=ratio, where=label != 0)
            uncertain &= np.abs(ratio) > self.relative
        return uncertain


#: When labels are uncertain.
RULES = {
    ResultFlag.UNCERTAIN_LOGG: Rule("logg", above=0.2, relative=0.075),
    ResultFlag.UNCERTAIN_TEFF: Rule("teff", above=300),
    ResultFlag.UNCERTAIN_FE_H: Rule("fe_h", relative=0.12),
}

#: A spectrum is unlike those of the training when fewer of these were as odd as it is. Real stars
#: that models do not follow to the last per cent have more.
LEAST_P_TRAINING = 0.01

DESCRIPTIONS: dict[ResultFlag, str] = {
    **{flag: str(rule) for flag, rule in RULES.items()},
    ResultFlag.NO_RESULT: "no labels: the spectrum could not be loaded or carries no information",
    ResultFlag.UNLIKE_TRAINING: f"p_training < {LEAST_P_TRAINING:g}: the spectrum is unlike those "
    "that the weights were trained on",
}

#: ``flag_bad`` is set when all of these are.
BAD = ResultFlag.UNCERTAIN_LOGG | ResultFlag.UNCERTAIN_TEFF | ResultFlag.UNCERTAIN_FE_H


def flag_uncertain(labels: Floats, e_labels: Floats) -> NDArray[np.int64]:
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
    flags = np.zeros(len(labels), dtype=np.int64)
    for flag, rule in RULES.items():
        place = LABEL_NAMES.index(rule.name)
        flags[rule.applies(labels[:, place], e_labels[:, place])] |= flag.value
    return flags


def flag_unlike_training(p_training: Floats) -> NDArray[np.int64]:
    """The flag of spectra unlike those of the training, ``(n,)`` bits; not set for NaN."""
    return np.where(p_training < LEAST_P_TRAINING, ResultFlag.UNLIKE_TRAINING.value, 0)
