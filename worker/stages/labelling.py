"""From the flux of a message's spectra to the messages that answer it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.array_types import nulls
from worker.errors import SpectrumError
from worker.inference.batching import InferredSpectrum
from worker.inference.inference import Inference
from worker.messages import (
    Failure,
    InferSpectra,
    NoResult,
    RecordLabels,
    SpectrumLabels,
    SpectrumReference,
    failure_of,
)
from worker.version import software_version


def label(
    message: InferSpectra, flux: NDArray[np.float32], inference: Inference
) -> tuple[RecordLabels, NoResult]:
    """Labels of a message's spectra, and the ones that got none.

    Parameters
    ----------
    flux
        ``(n, 7514)`` normalised flux, in the order of the message's spectra.

    Raises
    ------
    TransientError
        Memory is full.
    FatalError
        The device is broken or stuck, for good as far as this process goes.
    """
    answers = _answers(message, flux, inference)
    labelled = RecordLabels(
        software=software_version(),
        weights=message.weights,
        mc_samples=inference.mc_samples,
        seed=inference.seed,
        results=tuple(each for each in answers if isinstance(each, SpectrumLabels)),
    )
    failures = tuple(each for each in answers if isinstance(each, Failure))
    return labelled, NoResult(weights=message.weights, failures=failures)


def _answers(
    message: InferSpectra, flux: NDArray[np.float32], inference: Inference
) -> list[SpectrumLabels | Failure]:
    keys = [spectrum.mask_key for spectrum in message.spectra]
    snr = np.array([spectrum.snr for spectrum in message.spectra], dtype=np.float64)
    outcomes = inference.infer(flux, keys, message.lane, message.weights, snr)
    loading = message.load_seconds / max(1, len(keys))
    return [
        _answer(spectrum, outcome, loading)
        for spectrum, outcome in zip(message.spectra, outcomes, strict=True)
    ]


def _answer(
    spectrum: SpectrumReference, outcome: InferredSpectrum | SpectrumError, load_seconds: float
) -> SpectrumLabels | Failure:
    if isinstance(outcome, SpectrumError):
        return failure_of(spectrum, str(outcome))
    return SpectrumLabels(
        **spectrum.ticket,
        raw_labels=nulls(outcome.raw_labels),
        raw_e_labels=nulls(outcome.raw_e_labels),
        p_training=outcome.p_training,
        t_elapsed=load_seconds + outcome.seconds,
        t_overhead=load_seconds,
    )
