"""Parts of the Hertzsprung-Russell diagram by which a comparison is divided."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.labels import LABEL_NAMES

#: Giants have a smaller log g.
GIANTS_BELOW = 3.5
_TEFF_EDGES = (4000.0, 4500.0, 5000.0, 5500.0, 6500.0)
_FE_H_EDGES = (-1.5, -1.0, -0.5, 0.0)

Groups = dict[str, NDArray[np.bool_]]


def parts_of_diagram(known: Floats) -> dict[str, Groups]:
    """Which spectra are in each part; one without the label that decides is in none.

    Parameters
    ----------
    known
        ``(n, 22)`` known labels: what is found must not decide where it is compared.
    """
    teff, logg, fe_h = (known[:, LABEL_NAMES.index(name)] for name in ("teff", "logg", "fe_h"))
    return {
        "log g": {"giants": logg < GIANTS_BELOW, "dwarfs": logg >= GIANTS_BELOW},
        "Teff (K)": _bins(teff, _TEFF_EDGES, ".0f"),
        "[Fe/H]": _bins(fe_h, _FE_H_EDGES, ".1f"),
    }


def _bins(values: Floats, edges: tuple[float, ...], form: str) -> Groups:
    """Which values are below the first edge, between two, and from the last on."""
    return {
        f"below {edges[0]:{form}}": values < edges[0],
        **{
            f"{low:{form}} to {high:{form}}": (values >= low) & (values < high)
            for low, high in pairwise(edges)
        },
        f"from {edges[-1]:{form}}": values >= edges[-1],
    }
