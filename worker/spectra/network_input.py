"""What the network reads of spectra: normalised flux, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.spectra.continuum import (
    blank_chips,
    divide,
    fit_continuum,
    in_continuum,
    lost_in_continuum,
    uncertainties,
)
from worker.spectra.pixels import cut_rows


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
    normalised = divide(cut_rows(flux), cut_rows(mask), fit_continuum(fitted, e_fitted))
    lost, blank = lost_in_continuum(fitted, e_fitted), blank_chips(normalised)
    return [
        _lack(*chips) or row
        for row, *chips in zip(normalised.astype(np.float32), lost, blank, strict=True)
    ]


def _lack(lost: tuple[str, ...], blank: tuple[str, ...]) -> str:
    if lost:
        return f"no usable flux in the continuum of {_chips(lost)}"
    return f"every pixel masked in {_chips(blank)}" if blank else ""


def _chips(names: tuple[str, ...]) -> str:
    return f"the {' and '.join(names)} chip{'s' if len(names) > 1 else ''}"
