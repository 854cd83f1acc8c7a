"""Spectra that differ in a few ways, and what they are like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worker.array_types import Singles
from worker.network.reference import Reference
from worker.training.reference import fit_reference

#: Sets of lines whose depths differ from star to star.
_SETS = 6


def stars(n: int, seed: int, *, snr: float = 100.0) -> Singles:
    """Spectra that differ in the depths of some lines, with noise."""
    rng = np.random.default_rng(seed)
    lines = np.random.default_rng(99).normal(size=(_SETS, 7514)) ** 4
    flux = 1 - 0.003 * rng.uniform(0.2, 2, size=(n, _SETS)) @ lines
    return (flux + rng.normal(scale=1 / snr, size=flux.shape)).astype(np.float32)


def reference_of_stars() -> Reference:
    """What such spectra at S/N 40 and 160 are like."""
    flux = np.concatenate([stars(600, 1, snr=40), stars(600, 2, snr=160)])
    return fit_reference(flux, np.arange(1200), np.repeat([40.0, 160.0], 600))


def with_reference(weights: Path, path: Path, reference: Reference) -> Path:
    """The weights of a file, in another that has a reference."""
    arrays = {name: torch.tensor(array) for name, array in reference.arrays().items()}
    torch.save(torch.load(weights, weights_only=True) | {"reference": arrays}, path)
    return path
