"""The infer stage: flux from the array store, through the network, to labels."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache

from worker.app import lane_queue, publish
from worker.arrays import Absent, array_store
from worker.broker import worker_broker
from worker.messages import InferSpectra
from worker.network.inference import Inference
from worker.settings import get_settings
from worker.stages.adapter import task
from worker.stages.admission import Admission

logger = logging.getLogger(__name__)

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
    turn = _admission().live() if message.lane == "live" else _admission().bulk(_live_waits)
    with turn:
        _infer(message)


@lru_cache(maxsize=1)
def _admission() -> Admission:
    return Admission(get_settings().infer_threads)


def _live_waits() -> bool:
    return worker_broker().backlog(lane_queue("infer", "live")) > 0


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
        publish(labels, lane=message.lane)
    if failed.failures:
        publish(failed, lane=message.lane)
    array_store().finish(message.array)


infer_task = task("infer", InferSpectra)(infer)
