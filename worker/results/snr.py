"""Bins in S/N, for reports of an evaluation and for fitting a noise model."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats

_Float = TypeVar("_Float", np.float32, np.float64)

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


def known_snr(snr: NDArray[_Float]) -> NDArray[_Float]:
    """S/N, NaN where it is not known: DR17 writes a zero there."""
    return np.where(snr > 0, snr, snr.dtype.type(np.nan))


#: With fewer degrees of freedom a label is left as it is.
LEAST_FREEDOM = 30

#: S/N between which the factor is linear; a place with less support than this is left out.
SNR_PLACES = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0)


def supported_places(snr: Floats, weight: Floats) -> Floats:
    """The places with enough spectra nearer to them than to the others, ``weight`` of each."""
    places = np.array(SNR_PLACES)
    nearest = np.digitize(snr, np.sqrt(places[1:] * places[:-1]))
    return places[np.bincount(nearest, weight, len(places)) >= 2 * LEAST_FREEDOM]


def hats(snr: Floats, places: Floats) -> Floats:
    """``(n, p)``: what each place contributes to the factor at each S/N."""
    return np.stack([np.interp(snr, places, row) for row in np.eye(len(places))], axis=1)
