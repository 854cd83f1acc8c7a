"""The infer stage: flux from the array store, through the network, to labels."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import Any

from worker.app import publish
from worker.inference.inference import Inference
from worker.messages import InferSpectra
from worker.queues import lane_queue
from worker.settings import get_settings
from worker.stages.adapter import task
from worker.stages.admission import Admission
from worker.stages.heartbeat import also_tell
from worker.transport.arrays import Absent, array_store
from worker.transport.broker import worker_broker

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


def infer(message: InferSpectra) -> str:
    """Infer the labels of a message's spectra, then ask for them to be recorded."""
    turn = _admission().live() if message.lane == "live" else _admission().bulk(_live_waits)
    with turn:
        return _infer(message)


@lru_cache(maxsize=1)
def _admission() -> Admission:
    return Admission(get_settings().infer_threads)


def _live_waits() -> bool:
    return worker_broker().backlog(lane_queue("infer", "live")) > 0


def _infer(message: InferSpectra) -> str:
    flux = array_store().get(message.array, len(message.spectra))
    if flux is Absent.FINISHED:
        logger.info("action=infer array=%s: delivered again, its labels are sent", message.array)
        return "delivered again: the labels are sent already"
    if flux is Absent.GONE:
        logger.warning("action=infer array=%s: gone, spectra are loaded again", message.array)
        publish(message.reload())
        return "the flux is gone: loaded again"
    labels, failed = open_inference().infer(message, flux)
    if labels.results:
        publish(labels, lane=message.lane, about=message.spectra)
    if failed.failures:
        publish(failed, lane=message.lane, about=message.spectra)
    array_store().finish(message.array)
    return f"{len(labels.results)} labelled, {len(failed.failures)} without labels"


@also_tell
def device_vitals() -> dict[str, Any]:
    """The figures of this process's device, for `status`."""
    return {} if _inference is None else _inference.vitals()


infer_task = task("infer", InferSpectra)(infer)
