"""The types of numpy's arrays, for annotations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
#: float32 or float64.
Reals = NDArray[np.floating]
