"""Bins in S/N, by which an evaluation is told and a noise model fitted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Edges between the bins, which are about 20, 50, 100 and 200 per pixel.
SNR_EDGES = (30.0, 75.0, 150.0)


def snr_bins(
    snr: NDArray[np.floating], edges: tuple[float, ...] = SNR_EDGES
) -> dict[str, NDArray[np.bool_]]:
    """Which spectra are in each bin of S/N; those of unknown S/N (NaN) are in none."""
    return {
        f"{low:g}-{high:g}" if np.isfinite(high) else f"> {low:g}": (snr >= low) & (snr < high)
        for low, high in pairwise((0.0, *edges, np.inf))
    }
