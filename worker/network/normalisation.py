"""The statistics of a training by which a network's spectra and labels are normalised."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

#: No unit of a spectrum or of a label makes numbers beyond these, nor does a missing value.
_LARGEST = 1e5
#: Of labels; smaller ones would leave no uncertainty.
_SMALLEST_STD = 1e-6


def nonsense(input_mean: ArrayLike, labels_mean: ArrayLike, labels_std: ArrayLike) -> list[str]:
    """What no training gives of these, ``(7514,)``, ``(22,)`` and ``(22,)``; most give nothing.

    The uncertainty of a label that was scaled by zero or less would be none.
    """
    problems = [
        f"{name} has values beyond {_LARGEST:g}"
        for name, values in (("input_mean", input_mean), ("labels_mean", labels_mean))
        if not (np.abs(values) <= _LARGEST).all()
    ]
    std = np.asarray(labels_std)
    if not ((std >= _SMALLEST_STD) & (std <= _LARGEST)).all():
        problems.append(f"labels_std has values that are not {_SMALLEST_STD:g} to {_LARGEST:g}")
    return problems
