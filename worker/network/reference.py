"""What tells how unlike the spectra of a training one is."""

from __future__ import annotations

from typing import Protocol

from worker.array_types import Floats, Singles


class Reference(Protocol):
    """What the spectra of a training are like."""

    def p_training(self, flux: Singles, snr: Floats | None) -> Floats:
        """``(n,)`` share of the training spectra that are as unlike the others as each."""
