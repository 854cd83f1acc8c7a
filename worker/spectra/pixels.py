"""The pixel grid of APOGEE spectra and the bits of their pixel mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pixels of an apStar row: log10(wavelength / Angstrom) = 4.179 + 6e-6 i, vacuum, rest frame.
N_APSTAR = 8575
FIRST_WAVELENGTH = 4.179
WAVELENGTH_STEP = 6e-6

#: The three detectors' windows, 0-based and half-open.
CHIPS: dict[str, slice] = {
    "blue": slice(246, 3274),
    "green": slice(3585, 6080),
    "red": slice(6344, 8335),
}

#: Where each chip lies once the gaps are cut out.
CUT_CHIPS: dict[str, slice] = {
    "blue": slice(0, 3028),
    "green": slice(3028, 5523),
    "red": slice(5523, 7514),
}

#: Pixels of a spectrum whose gaps are cut out: what the network reads.
N_PIXELS = 7514

#: Bits 0 to 7 (bad, cosmic ray, saturated, unfixable, bad dark, bad flat, bad error, no sky)
#: and 12 (strong sky line) of APOGEE_PIXMASK, as astroNN masks them.
MASKED_BITS = 0b1_0000_1111_1111


def cut_gaps(rows: NDArray[Any]) -> NDArray[Any]:
    """Cut the gaps between the chips out of ``(..., 8575)`` rows, giving ``(..., 7514)``."""
    return np.concatenate([rows[..., chip] for chip in CHIPS.values()], axis=-1)


def cut_rows(rows: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Stack ``n`` rows of 8575 with the gaps cut out, giving ``(n, 7514)``, in a single copy."""
    pieces = [row[chip] for row in rows for chip in CHIPS.values()]
    return np.concatenate(pieces).reshape(-1, N_PIXELS)


def wavelength() -> NDArray[np.float64]:
    """Vacuum wavelength in Angstrom of the 7514 pixels that the network reads."""
    return np.asarray(
        cut_gaps(10 ** (FIRST_WAVELENGTH + WAVELENGTH_STEP * np.arange(N_APSTAR))), dtype=np.float64
    )
