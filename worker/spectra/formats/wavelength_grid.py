"""Whether a file's pixels are those that the network knows, as far as its headers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from worker.spectra.pixels import FIRST_WAVELENGTH, N_APSTAR, WAVELENGTH_STEP

#: In pixels. Far below what labels feel, far above what is lost by writing single precision.
_TOLERANCE = 0.1
_CARDS = {"CRVAL1": FIRST_WAVELENGTH, "CDELT1": WAVELENGTH_STEP, "CRPIX1": 1.0}


class _Header(Protocol):
    @property
    def lost(self) -> Sequence[str]: ...

    def get(self, key: str, /) -> Any: ...


def other_grid(header: _Header) -> str | None:
    """What is wrong with the wavelengths that a header gives, in words, or None.

    All files of the survey have the cards, in the primary header and in those of the images; a
    card that is missing says nothing.
    """
    try:
        start, step, pixel = (
            float(missing if (value := header.get(key)) is None else value)
            for key, missing in _CARDS.items()
        )
    except (TypeError, ValueError):
        return "its cards are no numbers"
    if not set(header.lost).isdisjoint(_CARDS):
        return "its cards cannot be read"
    start += (1 - pixel) * step
    at_first = start - FIRST_WAVELENGTH
    at_last = at_first + (step - WAVELENGTH_STEP) * (N_APSTAR - 1)
    if all(abs(end) < _TOLERANCE * WAVELENGTH_STEP for end in (at_first, at_last)):
        return None
    return f"log10 of the wavelength is {start:.8g} + {step:.8g} i"
