"""The record stage: labels and reasons to rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from worker.database.session import reading, transaction
from worker.errors import TransientError
from worker.messages import (
    Failure,
    NoResult,
    RecordLabels,
    Result,
    Setback,
    SpectrumLabels,
    Unread,
    failure_of,
)
from worker.results.record import (
    doubt,
    note_setbacks,
    record_failures,
    record_labels,
    strangers,
    wait_again,
)
from worker.stages.adapter import task
from worker.stages.process import Process
from worker.text import printable
from worker.transport.vitals import count_strangers

logger = logging.getLogger(__name__)

#: What a database says of a row that it will never take.
_REFUSALS = (DataError, IntegrityError)

_T = TypeVar("_T", bound=Result)


def record(message: RecordLabels, process: Process) -> str:
    """Write the labels of a message."""
    noise_model = process.noise_model(message.weights)

    def write(session: Session, results: Sequence[SpectrumLabels]) -> int:
        part = message.model_copy(update={"results": tuple(results)})
        return record_labels(session, part, noise_model)

    doubts = {each: why for each in message.results if (why := doubt(each)) is not None}
    results = [each for each in message.results if each not in doubts]
    finished = _write(process.database, results, write) if results else 0
    if doubts:
        _leave_open(process, doubts, message.weights)
    _tell_strangers(process, results, finished, message.weights)
    logger.info("action=record jobs=%d of %d", finished, len(message.results))
    return f"{finished} of {len(message.results)} jobs done"


def _leave_open(process: Process, doubts: dict[SpectrumLabels, str], weights: str) -> None:
    """Let the jobs of results that cannot be be sent again; in the end they get a row anyway.

    A row now would let whoever forged the result end the job before its labels come.
    """
    failures = tuple(
        failure_of(each, f"A result came with {why}, which no network gives.")
        for each, why in doubts.items()
    )
    for each in failures:
        logger.error("action=record job=%d: %s", each.job, each.reason)
    setback(Setback(weights=weights, failures=failures, waiting=False), process)


def no_result(message: NoResult, process: Process) -> str:
    """Write the rows of spectra that have no labels."""

    def write(session: Session, failures: Sequence[Failure]) -> int:
        return record_failures(session, failures, message.weights)

    finished = _write(process.database, message.failures, write)
    _tell_strangers(process, message.failures, finished, message.weights)
    logger.info("action=no_result jobs=%d of %d", finished, len(message.failures))
    return f"{finished} of {len(message.failures)} jobs done, without labels"


def setback(message: Setback, process: Process) -> None:
    """Note why spectra are late."""
    with transaction(process.database) as session:
        note_setbacks(session, message)


def unread(message: Unread, process: Process) -> str:
    """Let the jobs of messages of other versions wait again."""
    with transaction(process.database) as session:
        waiting = wait_again(session, message)
    return f"{waiting} of {len(message.unread)} jobs wait again"


def _write(
    database: Engine, parts: Sequence[_T], write: Callable[[Session, Sequence[_T]], int]
) -> int:
    """Write parts together; where the database refuses, one by one, to find the one it means."""
    try:
        with transaction(database) as session:
            return write(session, parts)
    except _REFUSALS as error:
        if len(parts) > 1:
            return sum(_write(database, [part], write) for part in parts)
        return _write_refusal(database, parts[0], error)


def _write_refusal(database: Engine, part: Result, error: DBAPIError) -> int:
    reason = f"The database refused its row: {str(error.orig).strip().splitlines()[0]}."
    logger.error("action=record spectrum=%d: %s", part.spectrum, printable(reason))
    with transaction(database) as session:
        return record_failures(session, [failure_of(part, reason)])


def _tell_strangers(
    process: Process, results: Sequence[Result], finished: int, weights: str
) -> None:
    """Log and count results that belong to no job of this database; they changed nothing."""
    if finished == len(results):
        return
    with reading(process.database) as connection:
        found = strangers(connection, results, weights)
    if found:
        names = printable(", ".join(each.natural_key for each in found[:3]))
        logger.warning("action=record strangers=%d: no job here wants %s", len(found), names)
        with suppress(TransientError):
            count_strangers(process.client, len(found))


record_task = task("record", RecordLabels)(record)
no_result_task = task("no_result", NoResult)(no_result)
setback_task = task("setback", Setback)(setback)
unread_task = task("unread", Unread)(unread)
