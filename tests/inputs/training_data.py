"""Simulated training data: spectra in which each label moves a few pixels of its own."""

from __future__ import annotations

import numpy as np

from worker.comparison.evaluation import Evaluated
from worker.labels import LABELS
from worker.spectra.pixels import N_PIXELS
from worker.spectra.windows import element_window
from worker.training.data import TrainingSet

#: Pixels that a label moves in its window, or anywhere, and by how much for one sigma.
_MOVED_IN_WINDOW, _MOVED, _DEPTH = 8, 200, 0.2


def linear_spectra(n: int, seed: int = 0, *, missing: float = 0.0) -> TrainingSet:
    """Spectra that depend linearly on 22 independent labels, with a little noise."""
    rng = np.random.default_rng(seed)
    standard = rng.normal(size=(n, len(LABELS)))
    flux = 1 + rng.normal(scale=0.01, size=(n, N_PIXELS))
    for position, label in enumerate(LABELS):
        random = np.random.default_rng(position)
        if label.element is None:
            moved = random.choice(N_PIXELS, _MOVED)
        else:
            window = np.flatnonzero(element_window(label.element))
            moved = random.choice(window, _MOVED_IN_WINDOW)
        flux[:, moved] += _DEPTH * standard[:, position, None]
    labels = 0.3 * standard - 0.1
    labels[:, 0] = 500 * standard[:, 0] + 4500
    labels[rng.random(labels.shape) < missing] = np.nan
    return TrainingSet(
        flux=flux.astype(np.float32),
        rows=np.arange(n),
        labels=labels,
        e_labels=np.where(np.arange(len(LABELS)) == 0, 10.0, 0.01) * np.ones((n, 1)),
        stars=[f"star {number // 2}" for number in range(n)],
        keys=[f"file {number // 2}/{number % 2}" for number in range(n)],
        snr=rng.uniform(20, 200, n),
    )


def gaussian_residuals(n: int = 4000, factor: float = 2.0, bias: float = 0.03) -> Evaluated:
    """Residuals that are Gaussian with ``factor`` times the uncertainty that is given."""
    rng = np.random.default_rng(5)
    known = rng.normal(size=(n, len(LABELS)))
    e_predicted = rng.uniform(0.05, 0.1, known.shape)
    predicted = known + bias + factor * e_predicted * rng.normal(size=known.shape)
    known[rng.random(known.shape) < 0.1] = np.nan
    return Evaluated(predicted, e_predicted, known, rng.uniform(10, 250, n), np.arange(n) % 2 == 0)
