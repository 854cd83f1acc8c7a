"""The infer stage: flux from the array store, through the network, to labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from worker.app import publish
from worker.messages import InferSpectra, Setback, failures_of
from worker.queues import lane_queue
from worker.stages.adapter import task
from worker.stages.labelling import label
from worker.stages.process import Process
from worker.transport.arrays import Absent

logger = logging.getLogger(__name__)


def infer(message: InferSpectra, process: Process) -> str:
    """Infer the labels of a message's spectra, then ask for them to be recorded."""
    if message.lane == "live":
        turn = process.admission.live()
    else:
        turn = process.admission.bulk(lambda: _live_waits(process))
    with turn:
        return _infer(message, process)


def _live_waits(process: Process) -> bool:
    return process.broker.backlog(lane_queue("infer", "live")) > 0


def _infer(message: InferSpectra, process: Process) -> str:
    if message.weights not in process.inference.served:
        return _send_back(message, process.inference.served)
    flux = process.arrays.get(message.array, len(message.spectra))
    if flux is Absent.FINISHED:
        logger.info("action=infer array=%s: delivered again, its labels are sent", message.array)
        return "delivered again: the labels are sent already"
    if flux is Absent.GONE:
        logger.warning("action=infer array=%s: gone, spectra are loaded again", message.array)
        publish(message.reload())
        return "the flux is gone: loaded again"
    labels, failed = label(message, flux, process.inference)
    if labels.results:
        publish(labels, lane=message.lane, about=message.spectra)
    if failed.failures:
        publish(failed, lane=message.lane, about=message.spectra)
    process.arrays.finish(message.array)
    return f"{len(labels.results)} labelled, {len(failed.failures)} without labels"


def _send_back(message: InferSpectra, served: Sequence[str]) -> str:
    """Let spectra for other weights wait for a worker that has them."""
    ours = ", ".join(weights[:12] for weights in served)
    reason = f"It waits for the weights {message.weights[:12]}; those served are {ours}."
    failures = failures_of(message.spectra, reason)
    setback = Setback(weights=message.weights, failures=failures, waiting=True)
    publish(setback, lane=message.lane, about=message.spectra)
    logger.warning("action=infer spectra=%d: sent back: %s", len(failures), reason)
    return "sent back: they want other weights"


infer_task = task("infer", InferSpectra)(infer)
