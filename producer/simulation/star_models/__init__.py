"""Models of real APOGEE spectra, made by others; the README beside them says by whom."""

from __future__ import annotations

from typing import Literal

Model = Literal["dwarfs", "giants", "synthetic"]
