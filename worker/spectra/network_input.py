"""What the network reads of spectra: normalised flux, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.spectra.chip_content import (
    MOST_EMPTY,
    MOST_ZEROS,
    empty_chips,
    flat_chips,
    zero_chips,
)
from worker.spectra.continuum import (
    blank_chips,
    divide,
    fit_continuum,
    in_continuum,
    lost_in_continuum,
    uncertainties,
)
from worker.spectra.pixels import cut_rows

_LACKS = (
    "no usable flux in the continuum of",
    "every pixel masked in",
    f"zeros in more than {MOST_ZEROS:.0%} of",
    f"no data in more than {MOST_EMPTY:.0%} of",
    "neither lines nor noise in",
)


def network_input(
    flux: Sequence[NDArray[np.float64]],
    error: Sequence[NDArray[np.float64]],
    mask: Sequence[NDArray[np.int32]],
) -> list[NDArray[np.float32] | str]:
    """Normalise spectra for the network; what carries no information must not reach it.

    Parameters
    ----------
    flux, error
        ``n`` rows of 8575 pixels, at least one, in 1e-17 erg/s/cm2/Angstrom.
    mask
        Their bits of APOGEE_PIXMASK.

    Returns
    -------
    list
        For each spectrum ``(7514,)`` normalised flux, or in words what it has that makes it
        unusable. A spectrum's flux is the same to the last bit whatever its neighbours are.
    """
    fitted, e_fitted = in_continuum(flux), uncertainties(in_continuum(error))
    cut, cut_mask = cut_rows(flux), cut_rows(mask)
    zeros, empty = zero_chips(cut, cut_mask), empty_chips(cut)
    normalised = divide(cut, cut_mask, fit_continuum(fitted, e_fitted))
    lost, blank = lost_in_continuum(fitted, e_fitted), blank_chips(normalised)
    reasons = map(_lack, lost, blank, zeros, empty, flat_chips(normalised))
    return [
        reason or row for row, reason in zip(normalised.astype(np.float32), reasons, strict=True)
    ]


def _lack(*chips: tuple[str, ...]) -> str:
    """The first thing that chips have or lack, in the order of ``_LACKS``."""
    found = zip(_LACKS, chips, strict=True)
    return next((f"{lack} {_chips(names)}" for lack, names in found if names), "")


def _chips(names: tuple[str, ...]) -> str:
    return f"the {' and '.join(names)} chip{'s' if len(names) > 1 else ''}"
