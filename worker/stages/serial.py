"""Serial mode: load, infer and record in one process, without Redis and Celery."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import Engine

from worker.database.session import transaction
from worker.inference.inference import Inference, open_inference
from worker.messages import LoadSpectra, failure_of
from worker.results.noise_model import NoiseModel, noise_model_for
from worker.results.record import record_failures, record_labels
from worker.settings import Settings
from worker.spectra.load import load_spectra
from worker.stages.labelling import label


def process(
    messages: Iterable[LoadSpectra],
    database: Engine,
    settings: Settings,
    finished: Callable[[int], None],
) -> None:
    """Process messages one after the other with the functions that the workers call.

    Parameters
    ----------
    finished
        Called after each message with the number of spectra that got their row.

    Raises
    ------
    FatalError
        The weights or the noise model cannot be used.
    """
    inference = open_inference(
        settings.weights_file,
        mc_samples=settings.mc_samples,
        seed=settings.seed,
        device=settings.device,
        batch_size=settings.batch_size,
    )
    try:
        noise_model = noise_model_for(
            inference.weights, settings.corrections_files(inference.weights)
        )
        for message in messages:
            finished(_process(message, database, settings, inference, noise_model))
    finally:
        inference.close()


def _process(
    message: LoadSpectra,
    database: Engine,
    settings: Settings,
    inference: Inference,
    noise_model: NoiseModel,
) -> int:
    loaded = load_spectra(message.spectra, settings.data_root, settings.coadd_mask)
    unloaded = tuple(failure_of(*each) for each in loaded.failures)
    labels, failed = label(message.loaded(loaded.spectra, loaded.seconds), loaded.flux, inference)
    with transaction(database) as session:
        done = record_failures(session, unloaded + failed.failures, message.weights)
        if labels.results:
            done += record_labels(session, labels, noise_model)
    return done
