"""The record stage: labels and reasons to rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from worker.database.session import open_database, transaction
from worker.messages import NoResult, RecordLabels, Setback, SpectrumLabels, Ticket, failure_of
from worker.results.noise_model import NoiseModel, read_noise_model
from worker.results.record import note_setbacks, record_failures, record_labels
from worker.settings import get_settings
from worker.stages.adapter import task

logger = logging.getLogger(__name__)

#: What a database says of a row that it will never take.
_REFUSALS = (DataError, IntegrityError)

_T = TypeVar("_T", bound=Ticket)


def record(message: RecordLabels) -> str:
    """Write the labels of a message."""
    factors = noise_model(get_settings().corrections_file(message.weights))

    def write(session: Session, results: Sequence[SpectrumLabels]) -> int:
        part = message.model_copy(update={"results": tuple(results)})
        return record_labels(session, part, factors)

    finished = _write(message.results, write)
    logger.info("action=record jobs=%d of %d", finished, len(message.results))
    return f"{finished} of {len(message.results)} jobs done"


def no_result(message: NoResult) -> str:
    """Write the rows of spectra that have no labels."""
    finished = _write(message.failures, record_failures)
    logger.info("action=no_result jobs=%d of %d", finished, len(message.failures))
    return f"{finished} of {len(message.failures)} jobs done, without labels"


def setback(message: Setback) -> None:
    """Note why spectra are late."""
    with transaction(database()) as session:
        note_setbacks(session, message.failures)


def _write(parts: Sequence[_T], write: Callable[[Session, Sequence[_T]], int]) -> int:
    """Write parts together; where the database refuses, one by one, to find the one it means."""
    try:
        with transaction(database()) as session:
            return write(session, parts)
    except _REFUSALS as error:
        if len(parts) > 1:
            return sum(_write([part], write) for part in parts)
        return _write_refusal(parts[0], error)


def _write_refusal(part: Ticket, error: DBAPIError) -> int:
    reason = f"The database refused its row: {str(error.orig).strip().splitlines()[0]}."
    logger.error("action=record spectrum=%d: %s", part.spectrum, reason)
    with transaction(database()) as session:
        return record_failures(session, [failure_of(part, reason)])


@lru_cache(maxsize=1)
def database() -> Engine:
    """This process's connections to the database."""
    return open_database(get_settings().database_url)


@lru_cache(maxsize=2)
def noise_model(path: Path | None) -> NoiseModel:
    """The noise model of a file, read once in this process; identity without one."""
    return read_noise_model(path)


record_task = task("record", RecordLabels)(record)
no_result_task = task("no_result", NoResult)(no_result)
setback_task = task("setback", Setback)(setback)
