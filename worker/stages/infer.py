"""The infer stage: flux from the array store, through the network, to labels."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from worker.app import lane_queue, publish
from worker.arrays import Absent, array_store
from worker.broker import worker_broker
from worker.errors import YieldError
from worker.messages import InferSpectra, Lane
from worker.network.inference import Inference
from worker.settings import get_settings
from worker.stages.adapter import task

logger = logging.getLogger(__name__)

#: How soon a bulk message that waits for a thread's turn notices a live one.
_POLL_SECONDS = 0.05

_lock = threading.Lock()
_inference: Inference | None = None


def open_inference() -> Inference:
    """This process's network, loaded on first use; the pool's threads share it."""
    global _inference
    with _lock:
        if _inference is None:
            _inference = Inference(get_settings())
        return _inference


def infer(message: InferSpectra) -> None:
    """Infer the labels of a message's spectra, then ask for them to be recorded."""
    with _admitted(message.lane):
        _infer(message)


@contextmanager
def _admitted(lane: Lane) -> Iterator[None]:
    """Keep one of the worker's threads for live spectra.

    Bulk holds all threads but one. A bulk message on the last one waits for another to end,
    and goes back to its queue when a live message comes: what has a thread has the device
    next, before all bulk.

    Raises
    ------
    YieldError
        A live message waits.
    """
    if lane == "live":
        yield
        return
    bulk, broker = _bulk(), worker_broker()
    while not bulk.acquire(timeout=_POLL_SECONDS):
        if broker.backlog(lane_queue("infer", "live")):
            raise YieldError("A live spectrum goes first.")
    try:
        yield
    finally:
        bulk.release()


@lru_cache(maxsize=1)
def _bulk() -> threading.Semaphore:
    return threading.Semaphore(max(1, get_settings().infer_threads - 1))


def _infer(message: InferSpectra) -> None:
    flux = array_store().get(message.array, len(message.spectra))
    if flux is Absent.FINISHED:
        logger.info("action=infer array=%s: delivered again, its labels are sent", message.array)
        return
    if flux is Absent.GONE:
        logger.warning("action=infer array=%s: gone, spectra are loaded again", message.array)
        publish(message.reload())
        return
    labels, failed = open_inference().infer(message, flux)
    if labels.results:
        publish(labels)
    if failed.failures:
        publish(failed)
    array_store().finish(message.array)


infer_task = task("infer", InferSpectra)(infer)
