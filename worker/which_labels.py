"""Which of the 22 labels: as truths, ``(22,)``, and by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Reals
from worker.labels import LABEL_NAMES


def known_labels(labels: Reals) -> NDArray[np.bool_]:
    """Which labels any of some spectra has, of ``(n, 22)`` labels with NaN where one is missing."""
    return np.asarray(np.isfinite(labels).any(axis=0))


def learnt_labels(not_learnt: Collection[str]) -> NDArray[np.bool_]:
    """Which labels weights have learnt, given the names of the others."""
    return np.array([name not in not_learnt for name in LABEL_NAMES])


def names_of(which: Iterable[bool | np.bool_]) -> tuple[str, ...]:
    """The names of these labels."""
    return tuple(compress(LABEL_NAMES, which))
