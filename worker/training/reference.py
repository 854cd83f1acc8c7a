"""Making the reference of weights from the spectra that they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worker.array_types import Floats, Singles
from worker.errors import UsageError
from worker.network.engines.engine import Engine
from worker.network.reference import (
    EXCEEDANCES,
    N_AXES,
    N_MEASURES,
    N_TERMS,
    Reference,
    answers_of,
    deviations,
    unexplained,
)
from worker.results.snr import hats
from worker.training.data import Indices, chunks

#: Fewer tell nothing of the rare ones among them; more than the most tell little more.
LEAST_SPECTRA, _MOST_SPECTRA = 200, 4000
_CHUNK = 32
_COMPONENTS, _MOST_FOR_COMPONENTS = 12, 3000
#: Components beyond those that are wanted, and rounds, after which the wanted ones stand.
_MORE, _ROUNDS = 16, 6
#: Each part of the spectra is measured with components of the others.
_PARTS = 5
#: Of the variance of each number of an answer, added so that none is without.
_RIDGE = 1e-3
_PLACES, _LEAST_AT_PLACE = 6, 25
#: The tail between two quantiles that are the same.
_LEAST_STEP = 1e-9


@dataclass(frozen=True)
class Trusted:
    """Spectra that weights can be trusted with, and the network's own answers to them.

    Attributes
    ----------
    flux
        ``(n, 7514)`` normalised flux.
    snr
        ``(n,)`` S/N per pixel, all known.
    labels, e_labels
        ``(n, 22)`` as the network gives them.
    learnt
        ``(22,)`` 1 for labels that the weights have learnt, 0 for others.
    """

    flux: Singles
    snr: Floats
    labels: Floats
    e_labels: Floats
    learnt: Floats


def reference_spectra(snr: Floats) -> Indices:
    """Which spectra make a reference: some thousands of known S/N, taken evenly.

    Raises
    ------
    UsageError
        They are too few.
    """
    known = np.flatnonzero(snr > 0)
    if len(known) < LEAST_SPECTRA:
        raise UsageError(
            f"{len(known)} spectra of known S/N do not tell what those of a training are like: "
            f"give {LEAST_SPECTRA} or, better, some thousands."
        )
    return known[:: -(-len(known) // _MOST_SPECTRA)]


def answered(
    engine: Engine,
    flux: Singles,
    rows: Indices,
    snr: Floats,
    keys: Sequence[str],
    learnt: Floats,
    finished: Callable[[int], None],
) -> Trusted:
    """Some rows of flux, with the answers of an engine; ``snr`` and ``keys`` are theirs."""
    parts = []
    for chunk in chunks(np.arange(len(rows)), _CHUNK):
        parts.append(engine(np.asarray(flux[rows[chunk]]), [keys[index] for index in chunk]))
        finished(len(chunk))
    labels, e_labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Trusted(np.asarray(flux[rows]), snr, labels, e_labels, learnt)


def fit_reference(trusted: Trusted) -> Reference:
    """What some spectra are like."""
    shown = trusted.flux != 1
    total = np.sum(trusted.flux, axis=0, dtype=np.float64, where=shown)
    mean = np.where(shown.any(axis=0), total / np.maximum(shown.sum(axis=0), 1), 1.0)
    reference = _with_answers(trusted, mean.astype(np.float32))
    left = _unexplained(trusted, reference.mean)
    answers = reference.answers(trusted.labels, trusted.e_labels)
    terms = reference.terms(answers, trusted.snr)
    coefficients = np.asarray(np.linalg.lstsq(terms, left)[0], np.float64)
    return _with_quantiles(replace(reference, coefficients=coefficients), trusted, left)


def _with_answers(trusted: Trusted, mean: Singles) -> Reference:
    """With components and answers; what to expect, and the quantiles, are still missing."""
    answers = answers_of(trusted.labels, trusted.e_labels, trusted.learnt)
    answer_std = np.maximum(answers.std(axis=0), _LEAST_STEP)
    covariance = np.cov(answers.T) + np.diag(_RIDGE * answer_std**2)
    ln_snr = np.log(trusted.snr)
    return Reference(
        spectra=np.array([float(len(trusted.snr))]),
        mean=mean,
        components=_components(trusted.flux, trusted.snr, mean),
        learnt=trusted.learnt,
        answer_mean=answers.mean(axis=0),
        answer_std=answer_std,
        answer_factor=np.linalg.inv(np.linalg.cholesky(covariance)),
        answer_axes=_axes((answers - answers.mean(axis=0)) / answer_std),
        ln_snr=np.array([*np.percentile(ln_snr, [1, 99]), ln_snr.mean()]),
        coefficients=np.zeros((N_TERMS, N_MEASURES - 1)),
        snr_places=np.zeros(1),
        quantiles=np.zeros((N_MEASURES, 1, len(EXCEEDANCES))),
    )


def _unexplained(trusted: Trusted, mean: Singles) -> Floats:
    """What components leave of spectra other than those they come from, whose noise they know."""
    part = np.arange(len(trusted.snr)) % _PARTS
    found = np.empty((len(part), N_MEASURES - 1))
    for number in range(_PARTS):
        some = part == number
        components = _components(trusted.flux[~some], trusted.snr[~some], mean)
        found[some] = [unexplained(row, mean, components) for row in trusted.flux[some]]
    return found


def _components(flux: Singles, snr: Floats, mean: Singles) -> Singles:
    """``(k, 7514)`` the orthonormal directions in which the brighter half differs most.

    By subspace iteration from a fixed start.
    """
    bright = np.flatnonzero(snr >= np.median(snr))[:_MOST_FOR_COMPONENTS]
    away = deviations(flux[bright], mean)
    rng = np.random.default_rng(0)
    found = rng.standard_normal((away.shape[1], _COMPONENTS + _MORE), dtype=np.float32)
    for _ in range(_ROUNDS):
        found, _ = np.linalg.qr(away.T @ (away @ found))
    _, _, turned = np.linalg.svd(away @ found, full_matrices=False)
    return np.asarray((found @ turned.T)[:, :_COMPONENTS].T, np.float32)


def _axes(scaled: Floats) -> Floats:
    """``(5, 2l)`` the directions in which answers differ most, over the deviation along them.

    Answers of fewer numbers have fewer; the others are zero.
    """
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    deviation = np.maximum(singular / np.sqrt(len(scaled)), _LEAST_STEP)
    axes = (directions / deviation[:, None])[:N_AXES]
    return np.pad(axes, ((0, N_AXES - len(axes)), (0, 0)))


def _with_quantiles(reference: Reference, trusted: Trusted, left: Floats) -> Reference:
    """With the quantiles of the measures, at S/N that have enough spectra."""
    measures = reference.measures(left, trusted.labels, trusted.e_labels, trusted.snr)
    ln_snr = np.log(trusted.snr)
    lowest, highest = np.percentile(ln_snr, [2, 98])
    places = np.unique(np.linspace(lowest, highest, _PLACES))
    places = places[hats(ln_snr, places).sum(axis=0) >= _LEAST_AT_PLACE]
    near = hats(ln_snr, places)
    quantiles = np.array(
        [[_quantiles(values, weight) for weight in near.T] for values in measures.T]
    )
    made = replace(reference, snr_places=places, quantiles=quantiles)
    return Reference.of(made.arrays())


def _quantiles(values: Floats, weight: Floats) -> Floats:
    """The values that the wanted parts of the spectra exceed, each with its weight."""
    order = np.argsort(values)
    below = np.cumsum(weight[order]) - weight[order] / 2
    found: Floats = np.interp(1 - EXCEEDANCES, below / weight.sum(), values[order])
    return found + _LEAST_STEP * np.arange(len(found))  # no two the same
