"""Inference of a message's spectra: the engine behind its micro-batcher, and what comes out."""

from __future__ import annotations

import logging
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from worker.errors import TransientError
from worker.labels import LABEL_NAMES
from worker.messages import (
    Failure,
    InferSpectra,
    NoResult,
    RecordLabels,
    SpectrumLabels,
    SpectrumReference,
)
from worker.network.batching import InferredSpectrum, MicroBatcher
from worker.network.checkpoint import read_checkpoint, weights_sha256
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: A batch takes seconds. After this long the device is stuck, and the message is tried again.
_LONGEST_WAIT = 600.0


class Inference:
    """The network of one process: its weights on its device, behind one micro-batcher."""

    def __init__(self, settings: Settings) -> None:
        from worker.network.dropout import McDropoutEngine, choose_device

        model = settings.required_model()
        self.weights = weights_sha256(model)
        self.mc_samples = settings.mc_samples
        self.seed = settings.seed
        self.device = choose_device(settings.device)
        engine = McDropoutEngine(
            read_checkpoint(model),
            mc_samples=settings.mc_samples,
            seed=settings.seed,
            device=self.device,
        )
        self._batcher = MicroBatcher(
            engine, batch_size=settings.batch_size, batch_wait=settings.batch_wait
        )
        logger.info("action=open weights=%s device=%s", self.weights, self.device)

    def infer(
        self, message: InferSpectra, flux: NDArray[np.float32]
    ) -> tuple[RecordLabels, NoResult]:
        """Labels of a message's spectra, and the ones that got none.

        Raises
        ------
        TransientError
            The device did not answer in time.
        """
        if message.weights != self.weights:
            return self._collect(message, []), NoResult.of(
                message.spectra,
                f"The job wants the weights {message.weights[:12]}, but the inference worker "
                f"serves {self.weights[:12]}.",
            )
        keys = [spectrum.natural_key for spectrum in message.spectra]
        futures = self._batcher.submit(flux, keys, message.lane)
        outcomes = [
            _outcome(spectrum, future, message.load_seconds / len(keys))
            for spectrum, future in zip(message.spectra, futures, strict=True)
        ]
        return (
            self._collect(message, [each for each in outcomes if isinstance(each, SpectrumLabels)]),
            NoResult(failures=tuple(each for each in outcomes if isinstance(each, Failure))),
        )

    def close(self) -> None:
        """Stop the device's thread."""
        self._batcher.close()

    def _collect(self, message: InferSpectra, results: list[SpectrumLabels]) -> RecordLabels:
        return RecordLabels(
            weights=message.weights,
            mc_samples=self.mc_samples,
            seed=self.seed,
            results=tuple(results),
        )


def _outcome(
    spectrum: SpectrumReference, future: Future[InferredSpectrum], load_seconds: float
) -> SpectrumLabels | Failure:
    try:
        inferred = future.result(timeout=_LONGEST_WAIT)
    except TimeoutError as error:
        raise TransientError("The device did not answer in time.") from error
    except Exception as error:  # noqa: BLE001 - the network's failure is this spectrum's reason
        logger.warning("action=infer spectrum=%d: %r", spectrum.spectrum, error)
        return _failure(spectrum, f"The network failed on {spectrum.natural_key}: {error!r}.")
    labels, e_labels = inferred.raw_labels.tolist(), inferred.raw_e_labels.tolist()
    if (name := _unusable_label(inferred)) is not None:
        return _failure(spectrum, f"The network gave no finite {name} for {spectrum.natural_key}.")
    return SpectrumLabels(
        job=spectrum.job,
        spectrum=spectrum.spectrum,
        raw_labels=labels,
        raw_e_labels=e_labels,
        t_elapsed=load_seconds + inferred.seconds,
        t_overhead=load_seconds,
    )


def _unusable_label(inferred: InferredSpectrum) -> str | None:
    """The first label whose value or uncertainty is not finite, if there is one."""
    finite = np.isfinite(inferred.raw_labels) & np.isfinite(inferred.raw_e_labels)
    return None if finite.all() else LABEL_NAMES[int(np.argmin(finite))]


def _failure(spectrum: SpectrumReference, reason: str) -> Failure:
    return Failure(job=spectrum.job, spectrum=spectrum.spectrum, reason=reason)
