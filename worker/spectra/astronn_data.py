"""Arrays of astroNN's data folder that come with this package, so that nobody needs astroNN.

``from_astronn/README.md`` says where they are from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAYS = Path(__file__).parent / "from_astronn" / "arrays.npz"


def astronn_array(name: str) -> NDArray[Any]:
    """An array of astroNN's data folder, by its file name there without the ending."""
    with np.load(ARRAYS, allow_pickle=False) as arrays:
        return np.asarray(arrays[name])
