"""Requeueing: jobs that are sent again because somebody wants it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import ColumnElement, Engine, select, update

from producer.ledger.register import locked_jobs
from producer.sources.names import read_names
from worker.database.session import transaction
from worker.database.tables import AstroNN, Job, JobState, now
from worker.errors import UsageError
from worker.queues import Lane

#: Spectra or jobs that one statement names.
_AT_ONCE = 2000
_TOO_LARGE = 2**63


@dataclass(frozen=True)
class Selection:
    """Which jobs are meant; each field that is given narrows the choice.

    Without ``no_result`` and ``spectra`` these are jobs that were sent and have no row yet.

    Parameters
    ----------
    no_result
        Jobs that ended without labels.
    spectra
        Jobs of these spectra (``spectrum_pk`` of the table), whatever their state.
    older_than
        Jobs that were sent, or done, longer ago than this.
    tag
        Jobs under this tag.
    """

    no_result: bool = False
    spectra: Collection[int] | None = None
    older_than: timedelta | None = None
    tag: str | None = None


def requeue(database: Engine, selection: Selection, lane: Lane | None = None) -> int:
    """Let jobs wait for their turn again, with all their attempts; returns how many.

    A row that a job has stays until the new one replaces it.

    Raises
    ------
    TransientError
        The database is away.
    """
    changes = {"lane": lane} if lane is not None else {}
    return sum(
        _let_wait(database, [*_conditions(selection), *some], **changes)
        for some in _some(selection.spectra)
    )


def take_back(database: Engine, jobs: Sequence[int]) -> None:
    """Let these jobs wait again where they count as sent: what they were sent to is gone."""
    for block in blocks(jobs):
        _let_wait(database, [Job.pk.in_(block), Job.state == JobState.QUEUED])


def read_ids(file: Path) -> list[int]:
    """Numbers from a file, one a line; ``-`` stands for the standard input.

    Raises
    ------
    UsageError
        The file cannot be read, or a line is no number.
    """
    try:
        numbers = [int(name) for name in read_names(file)]
        if not all(0 < number < _TOO_LARGE for number in numbers):
            raise ValueError("a key lies between 1 and 2^63")
        return numbers
    except ValueError as error:
        raise UsageError(f"--ids {file}: there is a line that is no key: {error}.") from error


def _let_wait(database: Engine, conditions: list[ColumnElement[bool]], **changes: str) -> int:
    with transaction(database) as session:
        jobs = locked_jobs(session, *conditions)
        for block in blocks(jobs):
            session.execute(
                update(Job)
                .where(Job.pk.in_(block))
                .values(
                    state=JobState.WAITING, attempts=0, last_error=None, updated_at=now(), **changes
                )
                .execution_options(synchronize_session=False)
            )
        return len(jobs)


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if selection.no_result:
        without = select(AstroNN.task_pk).where(AstroNN.flag_no_result)
        conditions += [Job.state == JobState.DONE, Job.pk.in_(without)]
    elif selection.spectra is None:
        conditions += [Job.state == JobState.QUEUED]
    if selection.older_than is not None:
        conditions += [Job.updated_at < now() - selection.older_than]
    if selection.tag is not None:
        conditions += [Job.tag == selection.tag]
    return conditions


def _some(spectra: Collection[int] | None) -> Iterator[list[ColumnElement[bool]]]:
    """The condition that names the spectra, a bounded number at a time; one without, for all."""
    if spectra is None:
        yield []
        return
    for block in blocks(sorted(spectra)):
        yield [Job.spectrum_pk.in_(block)]


def blocks(keys: Sequence[int]) -> Iterator[list[int]]:
    """As many keys at a time as a statement may name."""
    remaining = iter(keys)
    while block := list(islice(remaining, _AT_ONCE)):
        yield block
