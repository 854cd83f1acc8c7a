"""The record stage: labels and reasons to rows."""

from __future__ import annotations

import logging
from functools import lru_cache

from sqlalchemy import Engine

from worker.database.session import open_database, transaction
from worker.messages import NoResult, RecordLabels
from worker.results.noise_model import NoiseModel, read_noise_model
from worker.results.record import record_failures, record_labels
from worker.settings import get_settings
from worker.stages.adapter import task

logger = logging.getLogger(__name__)


def record(message: RecordLabels) -> None:
    """Write the labels of a message."""
    with transaction(database()) as session:
        finished = record_labels(session, message, noise_model())
    logger.info("action=record jobs=%d of %d", finished, len(message.results))


def no_result(message: NoResult) -> None:
    """Write the rows of spectra that have no labels."""
    with transaction(database()) as session:
        finished = record_failures(session, message.failures)
    logger.info("action=no_result jobs=%d of %d", finished, len(message.failures))


@lru_cache(maxsize=1)
def database() -> Engine:
    """This process's connections to the database."""
    return open_database(get_settings().database_url)


@lru_cache(maxsize=1)
def noise_model() -> NoiseModel:
    """The noise model of this process."""
    return read_noise_model(get_settings().corrections)


record_task = task("record", RecordLabels)(record)
no_result_task = task("no_result", NoResult)(no_result)
