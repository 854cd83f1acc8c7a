"""Making the reference of weights from the spectra that they were trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats, Singles
from worker.errors import UsageError
from worker.network.reference import LEVELS, Reference
from worker.results.snr import SNR_PLACES
from worker.training.data import Indices, chunks

#: Directions in which spectra differ; most are far from the noise.
_COMPONENTS = 32
#: More spectra than these hardly change the directions.
_MOST_FITTED = 4000
#: Directions beyond those that are wanted, and rounds, after which the wanted ones stand.
_MORE, _ROUNDS = 16, 6
#: So many spectra tell the quantiles at a place in S/N.
_LEAST_AT_PLACE = 200
#: Fewer tell nothing of the rare ones among them.
LEAST_SPECTRA = 200
_CHUNK = 512
#: Of the last quantile; no tail is shorter.
_LEAST_TAIL = 1e-3
#: A pixel that is the same in all spectra has no scatter.
_LEAST_SCALE = 1e-3


def fit_reference(flux: Singles, rows: Indices, snr: Floats) -> Reference:
    """What some spectra are like: directions from one half, quantiles from the other.

    Parameters
    ----------
    flux
        ``(m, 7514)`` normalised flux; may be a memory map.
    rows
        ``(n,)`` rows of it that count, ascending.
    snr
        ``(n,)`` S/N per pixel; NaN where not known.

    Raises
    ------
    UsageError
        They are too few.
    """
    if len(rows) < LEAST_SPECTRA:
        raise UsageError(
            f"{len(rows)} spectra do not tell what those of a training are like: give "
            f"{LEAST_SPECTRA} or, better, some thousands."
        )
    fitted = rows[:: 2 * -(-len(rows) // (2 * _MOST_FITTED))]
    spectra = np.asarray(flux[fitted])
    mean, scale = spectra.mean(axis=0), np.maximum(spectra.std(axis=0), _LEAST_SCALE)
    scaled = (spectra - mean) / scale
    components = _directions(scaled)
    made = Reference(
        mean=mean,
        scale=scale,
        components=components,
        deviations=(scaled @ components.T).std(axis=0, dtype=np.float64),
        snr=np.ones(1),
        quantiles=np.zeros((2, 1, len(LEVELS))),
        tails=np.ones((2, 1)),
        spectra=np.array([float(len(rows))]),
    )
    return _with_quantiles(Reference.of(made.arrays()), flux, rows[1::2], snr[1::2])


def _directions(scaled: Singles) -> Singles:
    """``(k, 7514)`` the orthonormal directions in which spectra differ most.

    By subspace iteration from a fixed start.
    """
    rng = np.random.default_rng(0)
    found = rng.standard_normal((scaled.shape[1], _COMPONENTS + _MORE), dtype=np.float32)
    for _ in range(_ROUNDS):
        found, _ = np.linalg.qr(scaled.T @ (scaled @ found))
    _, _, turned = np.linalg.svd(scaled @ found, full_matrices=False)
    return np.asarray((found @ turned.T)[:, :_COMPONENTS].T, np.float32)


def _with_quantiles(reference: Reference, flux: Singles, rows: Indices, snr: Floats) -> Reference:
    """With the quantiles of these spectra's measures, at each S/N that has enough of them."""
    measures = np.concatenate([reference.measures(flux[part]) for part in chunks(rows, _CHUNK)])
    places, near = _places(snr)
    quantiles = np.stack([np.quantile(measures[some], LEVELS, axis=0).T for some in near], axis=1)
    beyond = [
        np.maximum(measures[some] - quantiles[:, place, -1], 0).sum(axis=0)
        / np.maximum((measures[some] > quantiles[:, place, -1]).sum(axis=0), 1)
        for place, some in enumerate(near)
    ]
    tails = np.maximum(np.stack(beyond, axis=1), _LEAST_TAIL * quantiles[:, :, -1])
    made = replace(reference, snr=places, quantiles=quantiles, tails=tails)
    return Reference.of(made.arrays())


def _places(snr: Floats) -> tuple[Floats, list[NDArray[np.bool_]]]:
    """The S/N with enough spectra nearest to them, and which these are; all where there is none."""
    places = np.array(SNR_PLACES)
    nearest = np.digitize(snr, np.sqrt(places[1:] * places[:-1]))
    near = [(nearest == place) & (snr > 0) for place in range(len(places))]
    enough = [place for place, some in enumerate(near) if some.sum() >= _LEAST_AT_PLACE]
    if not enough:
        return np.array([100.0]), [np.ones(len(snr), dtype=np.bool_)]
    return places[enough], [near[place] for place in enough]
