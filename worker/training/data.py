"""What a network is trained on: spectra in a memory map, and labels beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import UsageError
from worker.spectra.pixels import N_PIXELS
from worker.which_labels import known_labels

Indices = NDArray[np.int64]

#: Spectra that are read together where all are read one after the other.
_CHUNK = 512


@dataclass(frozen=True)
class TrainingSet:
    """Spectra with labels.

    Attributes
    ----------
    flux
        ``(m, 7514)`` float32, normalised; may be a memory map, and may hold more spectra.
    rows
        ``(n,)``: the row of ``flux`` of each spectrum, ascending.
    labels, e_labels
        ``(n, 22)`` in the labels' units; NaN where missing, errors 0 where not known.
    stars, keys
        ``(n,)``: the name of each spectrum's star, and the key of its dropout masks.
    snr
        ``(n,)``; NaN where not known.
    """

    flux: NDArray[np.float32]
    rows: Indices
    labels: Floats
    e_labels: Floats
    stars: Sequence[str]
    keys: Sequence[str]
    snr: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def spectra(self, indices: Indices) -> NDArray[np.float32]:
        """Some spectra, ``(len(indices), 7514)``; read fastest where indices ascend."""
        return np.asarray(self.flux[self.rows[indices]])


def split_by_star(stars: Sequence[str], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of the spectra to train on and of those to validate with.

    All spectra of a star are on one side, which depends on its name and the seed alone.

    Raises
    ------
    UsageError
        One of the sides is empty.
    """
    most = round(fraction * 2**64)
    side = {star: _number(f"{seed}/{star}") < most for star in set(stars)}
    validation = np.array([side[star] for star in stars], dtype=bool)
    if validation.all() or not validation.any():
        raise UsageError(
            f"{len(side)} stars cannot be split into a training and a validation part of "
            f"{fraction:g}; give more spectra or another --validation."
        )
    return np.flatnonzero(~validation), np.flatnonzero(validation)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def input_mean(training_set: TrainingSet, indices: Indices) -> Floats:
    """The mean normalised flux of each pixel, ``(7514,)``, over the spectra that show it.

    A pixel that a spectrum lacks reads exactly 1 (see ``worker.spectra.continuum``) and does
    not count. Where no spectrum shows a pixel its mean is 1.
    """
    total, count = np.zeros(N_PIXELS), np.zeros(N_PIXELS)
    for chunk in chunks(indices, _CHUNK):
        flux = training_set.spectra(chunk)
        shown = flux != 1
        total += np.sum(flux, axis=0, dtype=np.float64, where=shown)
        count += shown.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def learnable(labels: Floats, split: tuple[Indices, Indices]) -> Floats:
    """The labels, ``(n, 22)``, NaN where the training part knows nothing of a label.

    Raises
    ------
    UsageError
        One of the parts has no label that can be learnt.
    """
    learnt = np.where(known_labels(labels[split[0]]), labels, np.nan)
    for part, indices in zip(("training", "validation"), split, strict=True):
        if not known_labels(learnt[indices]).any():
            raise UsageError(f"The {part} part has no label that can be learnt; give more spectra.")
    return learnt


def label_scales(labels: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the valid entries of each label, ``(22,)``.

    A label that is the same everywhere has no scale of its own; it gets 1. One that no spectrum
    has gets a mean of 0 and a scale of 1.
    """
    known = known_labels(labels)
    mean, std = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    mean[known], std[known] = (
        statistic(labels[:, known], axis=0) for statistic in (np.nanmean, np.nanstd)
    )
    return mean, np.where(std > 0, std, 1.0)


def chunks(indices: Indices, size: int) -> Iterator[Indices]:
    """Consecutive parts of some indices."""
    for first in range(0, len(indices), size):
        yield indices[first : first + size]


def shuffled_batches(indices: Indices, size: int, seed: int, epoch: int) -> list[Indices]:
    """The batches of an epoch, each in ascending order so that a disk reads forwards.

    All have about the same size, at most ``size``: a last batch of a few spectra would have as
    much weight as a whole one.
    """
    order = np.random.default_rng((seed, epoch)).permutation(indices)
    return [np.sort(part) for part in np.array_split(order, -(-len(order) // size))]
