"""Models of real APOGEE spectra, made by others; the README beside them says by whom."""

from __future__ import annotations

from enum import StrEnum


class Model(StrEnum):
    """A model, by the stars that it predicts; its numbers are in the file of that name."""

    DWARFS = "dwarfs"
    GIANTS = "giants"
    SYNTHETIC = "synthetic"
