"""The load stage: files to normalised flux in the array store."""

from __future__ import annotations

import logging
import time

from worker.app import publish
from worker.errors import BusyError
from worker.messages import LoadSpectra, NoResult, failure_of
from worker.queues import Lane, lane_queue
from worker.spectra.load import load_spectra
from worker.stages.adapter import task
from worker.stages.process import Process
from worker.text import printable
from worker.transport.crash_guard import Guard

logger = logging.getLogger(__name__)

#: A file that cannot be read in this time never will; shorter than the visibility timeout.
_LONGEST_SECONDS = 240
#: How long a loader waits for inference before it gives its slot to another message.
_PAUSE_SECONDS = 20.0
_POLL_SECONDS = 0.25


def load(message: LoadSpectra, process: Process) -> str:
    """Load the spectra of a message, then ask for their labels."""
    _wait_for_inference(message.lane, process)
    with process.crash_guard.serving(message) as guard:
        return _load(message, process, guard)


def _load(message: LoadSpectra, process: Process, guard: Guard) -> str:
    settings = process.settings
    loaded = load_spectra(message.spectra, settings.data_root, settings.coadd_mask, guard=guard)
    for spectrum, reason in loaded.failures:
        logger.warning("action=load spectrum=%d: %s", spectrum.spectrum, printable(reason))
    if loaded.failures:
        failures = tuple(failure_of(*each) for each in loaded.failures)
        failed = NoResult(weights=message.weights, failures=failures)
        publish(failed, lane=message.lane, about=message.spectra)
    if loaded.spectra:
        process.arrays.put(message.array_key, loaded.flux)
        publish(message.loaded(loaded.spectra, loaded.seconds))
    return f"{len(loaded.spectra)} loaded, {len(loaded.failures)} without labels"


def _wait_for_inference(lane: Lane, process: Process) -> None:
    """Pause while much flux waits for inference, so that Redis need not hold more of it.

    Live spectra are few and never wait.

    Raises
    ------
    BusyError
        It still does after some time.
    """
    if lane == "live":
        return
    end = time.monotonic() + _PAUSE_SECONDS
    while process.broker.backlog(lane_queue("infer", lane)) >= process.settings.infer_backlog:
        if time.monotonic() > end:
            raise BusyError("Inference is behind: loading pauses.")
        time.sleep(_POLL_SECONDS)


load_task = task("load", LoadSpectra, time_limit=_LONGEST_SECONDS)(load)
