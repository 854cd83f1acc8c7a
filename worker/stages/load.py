"""The load stage: files to normalised flux in the array store."""

from __future__ import annotations

import logging

from worker.app import publish
from worker.arrays import array_store
from worker.messages import LoadSpectra, NoResult
from worker.settings import get_settings
from worker.spectra.load import load_spectra
from worker.stages.adapter import task

logger = logging.getLogger(__name__)


def load(message: LoadSpectra) -> None:
    """Load the spectra of a message, then ask for their labels."""
    settings = get_settings()
    loaded = load_spectra(message.spectra, settings.data_root, settings.coadd_mask)
    for failure in loaded.failures:
        logger.warning("action=load spectrum=%d: %s", failure.spectrum, failure.reason)
    if loaded.failures:
        publish(NoResult(failures=loaded.failures))
    if loaded.spectra:
        array_store().put(message.array_key, loaded.flux)
        publish(message.loaded(loaded.spectra, loaded.seconds))


load_task = task("load", LoadSpectra)(load)
