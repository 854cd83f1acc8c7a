"""Arrays that the astroNN package carries, read without importing it.

Its import takes seconds and brings matplotlib along.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError


def astronn_array(name: str) -> NDArray[Any]:
    """An array of astroNN's data folder, by its file name.

    Raises
    ------
    FatalError
        astroNN is not installed, or without its data.
    """
    package = importlib.util.find_spec("astroNN")
    if package is None or package.origin is None:
        raise FatalError(f"astroNN is not installed; it carries {name}.")
    try:
        return np.asarray(np.load(Path(package.origin).parent / "data" / name, allow_pickle=False))
    except OSError as error:
        raise FatalError(f"{name} of astroNN cannot be read: {error}.") from error
