"""What a trained network is worth on spectra that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.labels import LABEL_NAMES, LABELS, Label
from worker.network.engines.engine import Engine
from worker.training.data import Indices, TrainingSet, chunks

#: With 100 passes each takes a millisecond or two on two cores.
MOST_EVALUATED = 6000
_CHUNK = 32

#: What a reader of the numbers has to know.
NOTES = (
    "Labels are the means of MC dropout, as the stream gives them.",
    "Bias is the median residual, scatter 1.4826 times the median absolute deviation; e is the "
    "uncertainty after the noise model.",
    "The noise model is fitted to half of these stars, and the parts within 1, 2 and 3 sigma are "
    "those of the other half.",
)


@dataclass(frozen=True)
class Evaluated:
    """Labels of spectra as the network gives them, and as they are known.

    Attributes
    ----------
    predicted, e_predicted
        ``(n, 22)``: means and raw total uncertainties of MC dropout, in the labels' units.
    known
        ``(n, 22)``; NaN where missing.
    snr
        ``(n,)``; NaN where not known.
    calibrating
        ``(n,)``: which spectra the noise model is fitted to; it is tested on the others.
    not_learnt
        The labels that the network has not learnt, or that a comparison of tables has of no
        spectrum on both sides; they are left out of all numbers and pictures.
    """

    predicted: Floats
    e_predicted: Floats
    known: Floats
    snr: Floats
    calibrating: NDArray[np.bool_]
    not_learnt: tuple[str, ...] = ()

    @property
    def learnt(self) -> dict[int, Label]:
        """The labels that are compared, by position."""
        return {i: label for i, label in enumerate(LABELS) if label.name not in self.not_learnt}

    @property
    def residuals(self) -> Floats:
        """Predicted less known."""
        return self.predicted - self.known


def half_of(stars: Sequence[str]) -> NDArray[np.bool_]:
    """The spectra of every second star, in the order in which they first come."""
    number = {star: i for i, star in enumerate(dict.fromkeys(stars))}
    return np.array([number[star] % 2 == 0 for star in stars], dtype=np.bool_)


def sample(validation: Indices) -> Indices:
    """At most 6000 of the validation spectra, taken evenly."""
    return validation[:: max(1, -(-len(validation) // MOST_EVALUATED))]


def evaluate(
    engine: Engine,
    data: TrainingSet,
    chosen: Indices,
    finished: Callable[[int], None],
    not_learnt: tuple[str, ...] = (),
) -> Evaluated:
    """Labels of some spectra by the stream's own engine; half of their stars calibrate."""
    parts = []
    for chunk in chunks(chosen, _CHUNK):
        parts.append(engine(data.spectra(chunk), [data.keys[index] for index in chunk]))
        finished(len(chunk))
    predicted, e_predicted = (np.concatenate(column) for column in zip(*parts, strict=True))
    for labels in (predicted, e_predicted):
        labels[:, [LABEL_NAMES.index(name) for name in not_learnt]] = np.nan
    return Evaluated(
        predicted=predicted,
        e_predicted=e_predicted,
        known=data.labels[chosen],
        snr=data.snr[chosen],
        calibrating=half_of([data.stars[index] for index in chosen]),
        not_learnt=not_learnt,
    )
