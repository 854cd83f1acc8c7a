"""The types of numpy's arrays, for annotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
#: float32 or float64.
Reals = NDArray[np.floating]


def nulls(values: Floats) -> tuple[float | None, ...]:
    """The numbers of a row as JSON and databases have them: null (None) where there is none (NaN).

    :func:`from_nulls` is the way back.
    """
    return tuple(None if value != value else value for value in values.tolist())


def from_nulls(rows: Sequence[Sequence[float | None]]) -> Floats:
    """``(n, m)`` numbers of some rows, NaN where there is none."""
    return np.array(rows, dtype=np.float64)
