"""Inference of a message's spectra: the engine behind its micro-batcher, and what comes out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError, TransientError
from worker.fingerprint import weights_sha256
from worker.inference.batch_statistics import RecentBatches
from worker.inference.batching import PROCESS_STOPS, Floats, Infer, InferredSpectrum, MicroBatcher
from worker.labels import LABEL_NAMES
from worker.messages import (
    Failure,
    InferSpectra,
    NoResult,
    RecordLabels,
    SpectrumLabels,
    SpectrumReference,
    failure_of,
)
from worker.network.checkpoint import read_checkpoint
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: A batch takes seconds. A device that takes this long is stuck.
_LONGEST_WAIT = 600.0
#: What the texts of torch's errors contain when memory ran out, in one library or another.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "ALLOC_FAILED",
)
#: What they contain when the device fails, and with it every later call.
_BROKEN_DEVICE = ("CUDA", "cuDNN", "CUBLAS", "HIP error", "unable to find an engine")

#: A live spectrum waits for the batch that runs: tens of milliseconds on the CPU.
_BATCH_SIZES = {"cpu": 32, "cuda": 64}


class Inference:
    """The network of one process: its weights on its device, behind one micro-batcher."""

    def __init__(self, settings: Settings) -> None:
        from worker.network.engines.choose import choose_device, open_engine

        file = settings.weights_file
        self.weights = weights_sha256(file)
        self.mc_samples = settings.mc_samples
        self.seed = settings.seed
        self.device = choose_device(settings.device)
        engine = open_engine(
            read_checkpoint(file),
            mc_samples=settings.mc_samples,
            seed=settings.seed,
            device=self.device,
        )
        self.engine = engine.name
        self._batcher = MicroBatcher(
            _telling_faults(engine),
            batch_size=settings.batch_size or _BATCH_SIZES[self.device],
            batch_wait=settings.batch_wait,
            longest_call=_LONGEST_WAIT,
        )
        self._recent = RecentBatches()
        logger.info("action=open weights=%s device=%s", self.weights, self.device)

    def infer(
        self, message: InferSpectra, flux: NDArray[np.float32]
    ) -> tuple[RecordLabels, NoResult]:
        """Labels of a message's spectra, and the ones that got none.

        Raises
        ------
        TransientError
            Memory is full.
        FatalError
            The device is broken or stuck, for good as far as this process goes.
        """
        if message.weights != self.weights:
            return self._collect(message, []), NoResult.of(
                message.spectra,
                f"The job wants the weights {message.weights[:12]}, but the inference worker "
                f"serves {self.weights[:12]}.",
            )
        keys = [spectrum.natural_key for spectrum in message.spectra]
        futures = self._batcher.submit(flux, keys, message.lane)
        try:
            self._batcher.wait_for(futures)
        finally:
            for future in futures:
                future.cancel()  # after Ctrl-C, drop what has not started
        outcomes = [
            _outcome(spectrum, future, message.load_seconds / len(keys))
            for spectrum, future in zip(message.spectra, futures, strict=True)
        ]
        return (
            self._collect(message, [each for each in outcomes if isinstance(each, SpectrumLabels)]),
            NoResult(failures=tuple(each for each in outcomes if isinstance(each, Failure))),
        )

    def vitals(self) -> dict[str, str | float]:
        """The device, its engine, and their last half minute: see :class:`RecentBatches`."""
        recent = self._recent.add(time.monotonic(), self._batcher.statistics.now())
        return {"device": self.device, "engine": self.engine, **recent}

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
        inferred = future.result()
    except (TransientError, FatalError):
        raise  # no fault of the spectrum
    except Exception as error:  # noqa: BLE001 - the network's failure is this spectrum's reason
        return failure_of(spectrum, f"The network failed on {spectrum.natural_key}: {error!r}.")
    labels, e_labels = inferred.raw_labels.tolist(), inferred.raw_e_labels.tolist()
    if (name := _unusable_label(inferred)) is not None:
        return failure_of(
            spectrum, f"The network gave no finite {name} for {spectrum.natural_key}."
        )
    return SpectrumLabels(
        job=spectrum.job,
        spectrum=spectrum.spectrum,
        file_version=spectrum.file_version,
        raw_labels=labels,
        raw_e_labels=e_labels,
        t_elapsed=load_seconds + inferred.seconds,
        t_overhead=load_seconds,
    )


def _unusable_label(inferred: InferredSpectrum) -> str | None:
    """The first label whose value or uncertainty is not finite, if there is one."""
    finite = np.isfinite(inferred.raw_labels) & np.isfinite(inferred.raw_e_labels)
    return None if finite.all() else LABEL_NAMES[int(np.argmin(finite))]


def _telling_faults(engine: Infer) -> Infer:
    """The engine, its device's errors turned into those that the micro-batcher understands."""
    import torch

    def infer(flux: NDArray[np.float32], natural_keys: Sequence[str]) -> tuple[Floats, Floats]:
        try:
            return engine(flux, natural_keys)
        except RuntimeError as error:
            fault = _device_fault(error)
            if fault is None:
                raise
        # The error is gone here; its traceback held the memory that is to be given back.
        if isinstance(fault, MemoryError):
            torch.cuda.empty_cache()
        raise fault

    return infer


def _device_fault(error: RuntimeError) -> MemoryError | FatalError | None:
    """What a torch error says about the device; None when it may be the spectrum's."""
    import torch

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(each in text for each in _OUT_OF_MEMORY):
        return MemoryError(text)
    accelerator_error = getattr(torch, "AcceleratorError", ())  # an older torch has none
    if isinstance(error, accelerator_error) or any(each in text for each in _BROKEN_DEVICE):
        first_line = text.partition("\n")[0]
        return FatalError(f"The device failed ({first_line}): {PROCESS_STOPS}.")
    return None
