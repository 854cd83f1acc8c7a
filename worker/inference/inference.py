"""Inference: flux to raw labels, by the engines of a process behind its micro-batcher."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats, nulls
from worker.errors import FatalError, SpectrumError, TransientError
from worker.identity import weights_sha256
from worker.inference.batch_statistics import RecentBatches
from worker.inference.batching import PROCESS_STOPS, Infer, InferredSpectrum, MicroBatcher
from worker.labels import LABEL_NAMES
from worker.network.checkpoint import read_checkpoint, read_not_learnt, read_reference
from worker.network.reference import Reference
from worker.queues import Lane
from worker.which_labels import learnt_labels

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
_CPU_BATCH, _BATCH = 32, 64


class Inference:
    """The networks of one process: their engines on its device, behind one micro-batcher.

    Parameters
    ----------
    engines
        They make raw labels of flux, see :class:`worker.network.engines.engine.Engine`; by the
        SHA-256 of their weights. The first is the one that is meant where no weights are named.
    not_learnt
        Labels that these weights have not learnt, by the SHA-256; they come out as NaN.
    references
        What tells how unlike the training spectra a spectrum is, by the SHA-256, where known.
    mc_samples, seed
        The passes of MC dropout and their seed, as the engines were opened with.
    device, name
        ``cpu`` or ``cuda``, and what the engines on it are called.
    batch_size, batch_wait
        See :class:`MicroBatcher`; without a size the one that suits the device.
    """

    def __init__(
        self,
        engines: Mapping[str, Infer],
        *,
        mc_samples: int,
        seed: int,
        device: str,
        name: str,
        batch_size: int | None = None,
        batch_wait: float = 0.0,
        not_learnt: Mapping[str, Sequence[str]] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> None:
        self.served = tuple(engines)
        self.weights = self.served[0]
        self.mc_samples = mc_samples
        self.seed = seed
        self.device = device
        self.name = name
        self._learnt = {
            weights: learnt_labels((not_learnt or {}).get(weights, ())) for weights in engines
        }
        self._batcher = MicroBatcher(
            {weights: _telling_faults(engine) for weights, engine in engines.items()},
            batch_size=batch_size or (_CPU_BATCH if device == "cpu" else _BATCH),
            batch_wait=batch_wait,
            longest_call=_LONGEST_WAIT,
        )
        self._recent = RecentBatches()
        self._references = references or {}

    def infer(
        self,
        flux: NDArray[np.float32],
        mask_keys: Sequence[str],
        lane: Lane = "bulk",
        weights: str | None = None,
        snr: Floats | None = None,
    ) -> list[InferredSpectrum | SpectrumError]:
        """Raw labels of spectra, for each in order, or the error that says why it has none.

        Parameters
        ----------
        flux
            ``(n, 7514)`` normalised flux.
        mask_keys
            What the spectra are called; they seed the dropout masks.
        lane
            ``live`` goes before ``bulk`` where several threads call.
        weights
            The SHA-256 of those to use, of the ones that are served; without it the first.
        snr
            ``(n,)`` S/N per pixel, NaN where it is not known, as it is of all without it.

        Raises
        ------
        TransientError
            Memory is full.
        FatalError
            The device is broken or stuck, for good as far as this process goes.
        """
        weights = weights or self.weights
        reference = self._references.get(weights)
        futures = self._batcher.submit(flux, mask_keys, lane, weights)
        try:
            # Meanwhile the device computes.
            unexplained = None if reference is None else reference.unexplained(flux)
            self._batcher.wait_for(futures)
        finally:
            for future in futures:
                future.cancel()  # after Ctrl-C, drop what has not started
        learnt = self._learnt[weights]
        outcomes = [_outcome(*pair, learnt) for pair in zip(mask_keys, futures, strict=True)]
        if reference is None or unexplained is None or snr is None:
            return outcomes
        return _compared(outcomes, reference, unexplained, snr)

    def vitals(self) -> dict[str, Any]:
        """The weights served, the device, its engine, and their last half minute.

        See :class:`RecentBatches`.
        """
        recent = self._recent.add(time.monotonic(), self._batcher.statistics.now())
        opened = {"weights": self.served, "device": self.device, "engine": self.name}
        return {**opened, **recent}

    def close(self) -> None:
        """Stop the device's thread."""
        self._batcher.close()


def open_inference(
    *weights_files: Path,
    mc_samples: int,
    seed: int,
    device: str = "auto",
    batch_size: int | None = None,
    batch_wait: float = 0.0,
) -> Inference:
    """Load weights, of one file or several, onto a device.

    It is ``cpu``, ``cuda``, or ``auto`` for the GPU where there is one.

    The parameters are those of :class:`Inference`.

    Raises
    ------
    FatalError
        The weights cannot be used, or there is no such device.
    """
    from worker.network.engines.choose import choose_device, open_engine

    device = choose_device(device)
    engines, not_learnt, references = {}, {}, {}
    for file in weights_files:
        weights, model = weights_sha256(file), read_checkpoint(file)
        engines[weights] = open_engine(model, mc_samples=mc_samples, seed=seed, device=device)
        not_learnt[weights] = read_not_learnt(file)
        if (reference := read_reference(file)) is not None:
            references[weights] = reference
        logger.info("action=open weights=%s device=%s", weights, device)
    return Inference(
        engines,
        mc_samples=mc_samples,
        seed=seed,
        device=device,
        name=next(iter(engines.values())).name,
        batch_size=batch_size,
        batch_wait=batch_wait,
        not_learnt=not_learnt,
        references=references,
    )


def _compared(
    outcomes: Sequence[InferredSpectrum | SpectrumError],
    reference: Reference,
    unexplained: Floats,
    snr: Floats,
) -> list[InferredSpectrum | SpectrumError]:
    """The outcomes, where there are labels with the share of the training that is as unlike."""
    good = [n for n, each in enumerate(outcomes) if isinstance(each, InferredSpectrum)]
    inferred = [each for each in outcomes if isinstance(each, InferredSpectrum)]
    if not inferred:
        return list(outcomes)
    labels, e_labels = (
        np.stack([getattr(each, name) for each in inferred])
        for name in ("raw_labels", "raw_e_labels")
    )
    shares = nulls(reference.p_training(unexplained[good], labels, e_labels, snr[good]))
    found: list[InferredSpectrum | SpectrumError] = list(outcomes)
    for number, each, share in zip(good, inferred, shares, strict=True):
        found[number] = replace(each, p_training=share)
    return found


def _outcome(
    mask_key: str, future: Future[InferredSpectrum], learnt: NDArray[np.bool_]
) -> InferredSpectrum | SpectrumError:
    try:
        inferred = future.result()
    except (TransientError, FatalError):
        raise  # no fault of the spectrum
    except Exception as error:  # noqa: BLE001 - the network's failure is this spectrum's reason
        return SpectrumError(f"The network failed on {mask_key}: {error!r}.")
    if (name := _unusable_label(inferred, learnt)) is not None:
        return SpectrumError(f"The network gave no finite {name} for {mask_key}.")
    labels, e_labels = (
        np.where(learnt, values, np.nan) for values in (inferred.raw_labels, inferred.raw_e_labels)
    )
    return replace(inferred, raw_labels=labels, raw_e_labels=e_labels)


def _unusable_label(inferred: InferredSpectrum, learnt: NDArray[np.bool_]) -> str | None:
    """The first label that was learnt whose value or uncertainty is not finite, if any."""
    finite = ~learnt | np.isfinite(inferred.raw_labels) & np.isfinite(inferred.raw_e_labels)
    return None if finite.all() else LABEL_NAMES[int(np.argmin(finite))]


def _telling_faults(engine: Infer) -> Infer:
    """The engine, its device's errors turned into those that the micro-batcher understands."""
    import torch

    def infer(flux: NDArray[np.float32], mask_keys: Sequence[str]) -> tuple[Floats, Floats]:
        try:
            return engine(flux, mask_keys)
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
