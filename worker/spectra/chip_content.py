"""Chips that hold too little of a spectrum for labels to mean anything.

The limits come from labels of eleven real stars of whose chips a part was taken away; the figures
are in ``docs/results.md``. What the survey itself masks does not count: of sound visits it
masks up to nine tenths of a chip, and the network was trained with such.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.spectra.continuum import chips_where
from worker.spectra.pixels import CUT_CHIPS, MASKED_BITS

#: Zeros that are not masked are to the network lines of full depth: a tenth of a chip moves Teff
#: by 0.7 (here and there) to 3 (in one block) of its uncertainties. Visits since DR17 have them
#: where a shifted chip ends, 0.07 of it at 600 km/s.
MOST_ZEROS = 0.1
#: Pixels without data are continuum to the network: three tenths of a chip move Teff by 0.3 of its
#: uncertainty, half of one by 0.5, and by 2 in the worst of 33 cases. Real spectra lack 0.015.
MOST_EMPTY = 0.3
#: Of normalised flux, highest less lowest; the noise alone makes more, up to an S/N of 5000.
_LEAST_RANGE = 1e-3

_STARTS = [chip.start for chip in CUT_CHIPS.values()]
_SIZES = np.array([chip.stop - chip.start for chip in CUT_CHIPS.values()])


def zero_chips(flux: Floats, mask: NDArray[np.int32]) -> list[tuple[str, ...]]:
    """Which chips of each ``(n, 7514)`` spectrum have too many zeros that are not masked."""
    return chips_where(_part((flux == 0) & ((mask & MASKED_BITS) == 0)) > MOST_ZEROS)


def empty_chips(flux: Floats) -> list[tuple[str, ...]]:
    """Which chips of each ``(n, 7514)`` spectrum have data, zeros apart, in too few pixels."""
    return chips_where(_part((flux == 0) | ~np.isfinite(flux)) > MOST_EMPTY)


def flat_chips(normalised: Floats) -> list[tuple[str, ...]]:
    """Which chips of each ``(n, 7514)`` normalised spectrum have neither lines nor noise."""
    highest = np.maximum.reduceat(normalised, _STARTS, axis=1)
    lowest = np.minimum.reduceat(normalised, _STARTS, axis=1)
    return chips_where(highest - lowest < _LEAST_RANGE)


def _part(pixels: NDArray[np.bool_]) -> Floats:
    """What part of each chip these pixels are, ``(n, 3)``."""
    return np.asarray(np.add.reduceat(pixels, _STARTS, axis=1, dtype=np.intp) / _SIZES)
