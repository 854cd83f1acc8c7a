"""Spectra that differ in a few ways, and what they are like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worker.array_types import Floats, Singles
from worker.network.reference import Reference
from worker.training.reference import Trusted, fit_reference

#: Sets of lines whose depths differ from star to star, each by a label of its own.
_SETS = 6


def stars(n: int, seed: int) -> Trusted:
    """Spectra that differ in the depths of some lines, of S/N 30 to 300, and answers to them."""
    rng = np.random.default_rng(seed)
    lines = np.random.default_rng(99).normal(size=(_SETS, 7514)) ** 4
    depths = rng.uniform(0.2, 2, size=(n, _SETS))
    snr = np.exp(rng.uniform(np.log(30), np.log(300), n))
    noise = rng.normal(size=(n, 7514)) / snr[:, None]
    labels = np.full((n, 22), 9.0)
    labels[:, :_SETS] = depths + rng.normal(size=depths.shape) / snr[:, None]
    e_labels = (0.01 + 1 / snr[:, None]) * np.exp(rng.normal(scale=0.1, size=(n, 22)))
    learnt = (np.arange(22) < _SETS).astype(np.float64)
    flux = (1 - 0.003 * depths @ lines + noise).astype(np.float32)
    return Trusted(flux, snr, labels, e_labels, learnt)


def reference_of_stars() -> Reference:
    """What such spectra are like."""
    return fit_reference(stars(2000, 1))


def reference_of_anything() -> Reference:
    """One for which spectra of any kind are unlike, but none by far."""
    made = reference_of_stars()
    wide = np.stack([np.linspace(0, 1, 13), np.linspace(-20, 3, 13), np.linspace(-2, 0.2, 13)])
    return replace(
        made,
        answer_mean=np.zeros(12),
        answer_std=np.full(12, 1e3),
        answer_factor=1e-4 * np.eye(12),
        quantiles=np.repeat(wide[:, None], len(made.snr_places), axis=1),
    )


def shares(reference: Reference, spectra: Trusted, snr: Floats | None = None) -> Floats:
    """How unlike some spectra are."""
    flux: Singles = spectra.flux
    unexplained = reference.unexplained(flux)
    known = spectra.snr if snr is None else snr
    return reference.p_training(unexplained, spectra.labels, spectra.e_labels, known)


def with_reference(weights: Path, path: Path, reference: Reference) -> Path:
    """The weights of a file, in another that has a reference."""
    arrays = {name: torch.tensor(array) for name, array in reference.arrays().items()}
    torch.save(torch.load(weights, weights_only=True) | {"reference": arrays}, path)
    return path
