"""The spectra whose labels are furthest from those that are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.array_types import Floats
from worker.comparison.evaluation import Evaluated
from worker.comparison.results import Results
from worker.comparison.statistics import pulls, spread
from worker.labels import LABELS

#: How many of each kind are named.
MOST_NAMED = 20


@dataclass(frozen=True)
class Compared:
    """A label of a spectrum as it was found, with its uncertainty, and as it is known."""

    found: float
    e: float | None
    known: float


@dataclass(frozen=True)
class Outlier:
    """A spectrum by name, and its label that is furthest off.

    Attributes
    ----------
    off
        The residual in units of the uncertainty, or of the label's scatter.
    labels
        All labels of it that are compared, by name.
    """

    star: str
    path: str
    member: str
    snr: float | None
    flags: int
    label: str
    off: float
    labels: dict[str, Compared]


def furthest(evaluated: Evaluated, e_labels: Floats, results: Results) -> dict[str, list[Outlier]]:
    """The spectra with the largest residuals, by uncertainty and by the label's scatter.

    A star counts once, by the worst label of its worst spectrum.

    Parameters
    ----------
    e_labels
        ``(n, 22)`` uncertainties.
    results
        The names of the spectra, row by row.
    """
    residuals = evaluated.residuals
    shown = [position in evaluated.learnt for position in range(len(LABELS))]
    scatter = np.array([spread(column)["scatter"] or np.nan for column in residuals.T])
    off = {
        "uncertainty": pulls(residuals, e_labels),
        "scatter": pulls(residuals, np.broadcast_to(scatter, residuals.shape)),
    }
    return {
        unit: _furthest(np.where(shown, values, np.nan), evaluated, e_labels, results)
        for unit, values in off.items()
    }


def _furthest(
    off: Floats, evaluated: Evaluated, e_labels: Floats, results: Results
) -> list[Outlier]:
    distance = np.where(np.isfinite(off), np.abs(off), -1.0)
    worst = distance.argmax(axis=1)
    names = results.names
    rows: dict[str, int] = {}
    for row in np.argsort(-distance.max(axis=1), kind="stable").tolist():
        if distance[row].max() > 0 and len(rows) < MOST_NAMED:
            rows.setdefault(names[row], row)
    return [
        Outlier(
            star=str(results.stars[row]),
            path=str(results.paths[row]),
            member=str(results.members[row]),
            snr=_plain(evaluated.snr[row]),
            flags=int(results.flags[row]),
            label=LABELS[worst[row]].name,
            off=float(off[row, worst[row]]),
            labels=_labels(row, evaluated, e_labels),
        )
        for row in rows.values()
    ]


def _labels(row: int, evaluated: Evaluated, e_labels: Floats) -> dict[str, Compared]:
    return {
        label.name: Compared(
            float(evaluated.predicted[row, position]),
            _plain(e_labels[row, position]),
            float(evaluated.known[row, position]),
        )
        for position, label in evaluated.learnt.items()
        if np.isfinite(evaluated.residuals[row, position])
    }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
