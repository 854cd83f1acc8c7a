"""The arrays of astroNN that come with the package are astroNN's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from worker.spectra.astronn_data import ARRAYS, astronn_array

with np.load(ARRAYS) as arrays:
    NAMES = list(arrays)


@pytest.mark.parametrize("name", NAMES)
def test_an_array_is_that_of_astronn_to_the_last_bit(name: str) -> None:
    package = importlib.util.find_spec("astroNN")
    if package is None or package.origin is None:
        pytest.skip("astroNN is not installed; `uv run` brings it, and so does the extra astronn")
    theirs = np.load(Path(package.origin).parent / "data" / f"{name}.npy")
    ours = astronn_array(name)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()


def test_there_are_no_others() -> None:
    assert NAMES == ["dr17_contmask", "aspcap_l31c_masks"]
