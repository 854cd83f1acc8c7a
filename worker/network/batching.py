"""Micro-batching: requests from many threads become batches for one device.

A batch starts as soon as the device is idle, with whatever waits by then, live spectra first;
while the device is busy, requests gather up to ``batch_size``. ``batch_wait`` lets an idle
device wait that long for a batch to fill.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.messages import Lane

logger = logging.getLogger(__name__)

_PRIORITY: dict[Lane, int] = {"live": 0, "bulk": 1}

Floats = NDArray[np.float64]
#: Flux ``(n, 7514)`` and natural keys to raw labels and uncertainties, ``(n, 22)`` each.
Infer = Callable[[NDArray[np.float32], Sequence[str]], tuple[Floats, Floats]]


@dataclass(frozen=True)
class InferredSpectrum:
    """Raw labels and uncertainties ``(22,)`` of one spectrum, and its share of the batch's time."""

    raw_labels: Floats
    raw_e_labels: Floats
    seconds: float


@dataclass(order=True)
class _Request:
    priority: int
    number: int
    flux: NDArray[np.float32] = field(compare=False)
    natural_key: str = field(compare=False)
    outcome: Future[InferredSpectrum] = field(compare=False, default_factory=Future)


class MicroBatcher:
    """Runs ``infer`` on one thread, on batches gathered from many.

    Parameters
    ----------
    infer
        The engine. When it raises, the batch is halved until the spectra that make it raise
        stand alone; only those fail.
    batch_size
        Most spectra in a batch.
    batch_wait
        Seconds that an idle device waits for a batch to fill.
    """

    def __init__(self, infer: Infer, *, batch_size: int, batch_wait: float) -> None:
        self._infer = infer
        self._batch_size = batch_size
        self._batch_wait = batch_wait
        self._waiting: list[_Request] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(
        self, flux: NDArray[np.float32], natural_keys: Sequence[str], lane: Lane
    ) -> list[Future[InferredSpectrum]]:
        """Queue spectra for inference; one future for each, in order."""
        requests = [
            _Request(_PRIORITY[lane], next(self._numbers), row, key)
            for row, key in zip(flux, natural_keys, strict=True)
        ]
        with self._changed:
            if self._closed:
                raise RuntimeError("the micro-batcher is closed")
            for request in requests:
                heapq.heappush(self._waiting, request)
            self._changed.notify()
        return [request.outcome for request in requests]

    def close(self) -> None:
        """Finish what waits, then stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            # Nobody waits any more for a request that was cancelled.
            wanted = [each for each in batch if each.outcome.set_running_or_notify_cancel()]
            if wanted:
                self._serve(wanted)

    def _next_batch(self) -> list[_Request]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._batch_wait > 0 and not self._closed:
                self._changed.wait_for(self._is_full, timeout=self._batch_wait)
            size = min(self._batch_size, len(self._waiting))
            return [heapq.heappop(self._waiting) for _ in range(size)]

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._batch_size or self._closed

    def _serve(self, batch: list[_Request]) -> None:
        try:
            outcomes = self._run_batch(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, these spectra get to know
            if len(batch) == 1:
                batch[0].outcome.set_exception(error)
                return
            logger.warning("action=infer spectra=%d: halving the batch: %r", len(batch), error)
            middle = len(batch) // 2
            self._serve(batch[:middle])
            self._serve(batch[middle:])
        else:
            for request, outcome in zip(batch, outcomes, strict=True):
                request.outcome.set_result(outcome)

    def _run_batch(self, batch: list[_Request]) -> list[InferredSpectrum]:
        started = time.perf_counter()
        labels, e_labels = self._infer(
            np.stack([request.flux for request in batch]),
            [request.natural_key for request in batch],
        )
        if not len(labels) == len(e_labels) == len(batch):
            raise RuntimeError(f"{len(labels)} outputs for {len(batch)} spectra")
        share = (time.perf_counter() - started) / len(batch)
        return [
            InferredSpectrum(row, e_row, share) for row, e_row in zip(labels, e_labels, strict=True)
        ]
