"""The ASPCAP windows: the pixels in which an element shows, as astroNN carries them for DR17."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from worker.spectra.astronn_data import astronn_array

#: The bits of astroNN's array, from the lowest; elements as :mod:`worker.labels` names them.
_BITS = (
    *("C", "C1", "N", "O", "Na", "Mg", "Al", "Si", "P", "S", "K", "Ca", "Ti", "TiII"),
    *("V", "Cr", "Mn", "Fe", "Co", "Ni"),
)


@cache
def element_window(element: str) -> NDArray[np.bool_]:
    """The window of one element, ``(7514,)``, as ``astroNN.apogee.aspcap_mask(element, dr=17)``."""
    bits = astronn_array("aspcap_l31c_masks")
    window: NDArray[np.bool_] = (bits & (1 << _BITS.index(element))) != 0
    window.setflags(write=False)
    return window
