"""Micro-batching: requests from many threads become batches for one device.

A batch starts as soon as the device is idle, with whatever waits by then, live spectra first;
while the device is busy, requests gather up to ``batch_size``. ``batch_wait`` lets an idle
device wait that long for a batch to fill. Several networks may share the device; a batch is for
one of them.

The type of an error decides what follows. After a ``FatalError``, or what is no ``Exception``, the
device is given up. After a ``MemoryError`` the call is tried again later. Any other error is taken
for the fault of one spectrum, which is found by halving the batch.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import FatalError, TransientError
from worker.inference.batch_statistics import BatchStatistics
from worker.queues import Lane

logger = logging.getLogger(__name__)

_PRIORITY: dict[Lane, int] = {"live": 0, "bulk": 1}
#: How the text of a fault ends.
PROCESS_STOPS = "this process stops, since only a new one can use the device again"

#: Flux ``(n, 7514)`` and keys of masks to raw labels and uncertainties, ``(n, 22)`` each.
Infer = Callable[[NDArray[np.float32], Sequence[str]], tuple[Floats, Floats]]


@dataclass(frozen=True)
class InferredSpectrum:
    """Raw labels and uncertainties ``(22,)`` of one spectrum, and its share of the batch's time.

    ``p_training`` is the share of the training spectra that are as unlike the others as it is,
    None where the weights' file has no reference.
    """

    raw_labels: Floats
    raw_e_labels: Floats
    seconds: float
    p_training: float | None = None


@dataclass(order=True)
class _Request:
    priority: int
    number: int
    weights: str = field(compare=False)
    flux: NDArray[np.float32] = field(compare=False)
    mask_key: str = field(compare=False)
    submitted: float = field(compare=False)
    outcome: Future[InferredSpectrum] = field(compare=False, default_factory=Future)


class MicroBatcher:
    """Runs engines on one thread, on batches gathered from many.

    Parameters
    ----------
    engines
        By the names of their weights. When one raises, the batch is halved until the spectra
        that make it raise stand alone; only those fail. Spectra that do not fit into memory even
        alone get a ``TransientError``. After a ``FatalError`` none is called again, and all that
        run, wait or come later get that error.
    batch_size
        Most spectra in a batch.
    batch_wait
        Seconds that an idle device waits for a batch to fill.
    longest_call
        Seconds after which a call of an engine will never return.
    """

    def __init__(
        self,
        engines: Mapping[str, Infer],
        *,
        batch_size: int,
        batch_wait: float,
        longest_call: float,
    ) -> None:
        self._engines = engines
        self._batch_size = batch_size
        self._batch_wait = batch_wait
        self._longest_call = longest_call
        self._waiting: dict[str, list[_Request]] = {weights: [] for weights in engines}
        self._running: list[_Request] = []
        self._numbers = itertools.count()
        self._calls = 0
        self.statistics = BatchStatistics()
        self._changed = threading.Condition()
        self._closed = False
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(
        self, flux: NDArray[np.float32], mask_keys: Sequence[str], lane: Lane, weights: str
    ) -> list[Future[InferredSpectrum]]:
        """Queue spectra for inference by these weights; one future for each, in order.

        Raises
        ------
        FatalError
            The device was given up; the text says why.
        """
        moment = time.perf_counter()
        requests = [
            _Request(_PRIORITY[lane], next(self._numbers), weights, row, key, moment)
            for row, key in zip(flux, mask_keys, strict=True)
        ]
        with self._changed:
            if self._fault is not None:
                raise FatalError(self._fault)
            if self._closed:
                raise RuntimeError("the micro-batcher is closed")
            for request in requests:
                heapq.heappush(self._waiting[weights], request)
            self._changed.notify()
        return [request.outcome for request in requests]

    def wait_for(self, futures: Sequence[Future[InferredSpectrum]]) -> None:
        """Return when all these futures have their outcome.

        Raises
        ------
        FatalError
            The device is stuck: no call ended for ``longest_call`` seconds. It may be slow,
            and one future may wait for much longer, as long as calls end.
        """
        patience = self._batch_wait + self._longest_call
        calls = self._calls
        while wait(futures, timeout=patience).not_done:
            if self._calls == calls:
                fault = f"The device did not answer in {patience:g} s: {PROCESS_STOPS}."
                self._end(fault)
                raise FatalError(fault)
            calls = self._calls

    def close(self) -> None:
        """Finish what waits, then stop the thread; one that is stuck is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._fault is None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                # A request that was cancelled needs no answer.
                wanted = [each for each in batch if each.outcome.set_running_or_notify_cancel()]
                if wanted:
                    self._serve(wanted)
        except FatalError as error:
            self._end(str(error))
        except BaseException as error:
            logger.critical("action=infer: the device's thread ended", exc_info=error)
            self._end(f"The device's thread ended by {error!r}: {PROCESS_STOPS}.")

    def _end(self, fault: str) -> None:
        """Fail all requests, since the device will answer none; the first fault counts."""
        with self._changed:
            if self._fault is None:
                self._fault = fault
            lost = self._running + [each for queue in self._waiting.values() for each in queue]
            for queue in self._waiting.values():
                queue.clear()
        for request in lost:
            with suppress(InvalidStateError):  # it has its outcome, or was cancelled
                # An error for each: threads that raise one together would mix its tracebacks.
                request.outcome.set_exception(FatalError(self._fault))

    def _next_batch(self) -> list[_Request]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._waiting.values()))
            if self._batch_wait > 0 and not self._closed:
                self._changed.wait_for(self._is_full, timeout=self._batch_wait)
            # The queue of the most urgent request.
            queue = min(filter(None, self._waiting.values()), default=[])
            size = min(self._batch_size, len(queue))
            self._running = [heapq.heappop(queue) for _ in range(size)]
            return self._running

    def _is_full(self) -> bool:
        most = max(len(queue) for queue in self._waiting.values())
        return self._closed or most >= self._batch_size

    def _serve(self, batch: list[_Request]) -> None:
        """Answer a batch; when it fails, its halves, the more urgent first."""
        failure = self._answer(batch)
        if failure is None:
            return
        if len(batch) == 1:
            batch[0].outcome.set_exception(failure)
            return
        middle = len(batch) // 2
        self._serve(batch[:middle])
        self._serve(batch[middle:])

    def _answer(self, batch: list[_Request]) -> Exception | None:
        """Answer a batch, or return what a spectrum gets if this was it alone."""
        try:
            outcomes = self._run_batch(batch)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, these spectra get to know
            return _failure(error, batch)
        for request, outcome in zip(batch, outcomes, strict=True):
            request.outcome.set_result(outcome)
        return None

    def _run_batch(self, batch: list[_Request]) -> list[InferredSpectrum]:
        started = time.perf_counter()
        self.statistics.begin([request.submitted for request in batch])
        try:
            labels, e_labels = self._engines[batch[0].weights](
                np.stack([request.flux for request in batch]),
                [request.mask_key for request in batch],
            )
        finally:
            self.statistics.end()
            self._calls += 1
        if not len(labels) == len(e_labels) == len(batch):
            raise RuntimeError(f"{len(labels)} outputs for {len(batch)} spectra")
        share = (time.perf_counter() - started) / len(batch)
        return [
            InferredSpectrum(row, e_row, share) for row, e_row in zip(labels, e_labels, strict=True)
        ]


def _failure(error: Exception, batch: list[_Request]) -> Exception:
    """What the log and a spectrum alone are told of an error; it is all that is kept of it.

    Its traceback would keep the memory of the failed call in use.
    """
    if isinstance(error, MemoryError):
        logger.info("action=infer spectra=%d: out of memory: %s", len(batch), error)
        return TransientError(
            "There is not enough free memory to infer even one spectrum; end what else uses this "
            "device or machine."
        )
    logger.warning(
        "action=infer spectra=%d first=%s: the network failed: %r",
        len(batch),
        batch[0].mask_key,
        error,
        exc_info=len(batch) == 1,
    )
    return error.with_traceback(None)
