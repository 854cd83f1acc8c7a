"""Reconciling: jobs that the ledger takes for sent, but that nobody works on, are sent again.

Redis may lose what it holds; the ledger may not. A job whose message is nowhere, or that a
worker has held past its deadline, goes back to waiting. After ``max_attempts`` it ends as a row
without labels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine, select, update

from worker.broker import Broker, Transit
from worker.database.session import reading, transaction
from worker.database.tables import Job, JobState, now
from worker.messages import Failure
from worker.results.record import record_failures
from worker.settings import Settings

logger = logging.getLogger(__name__)

#: A message is nowhere for milliseconds while a worker takes it; longer, and it is lost.
LOST_SECONDS = 3.0
#: Jobs that one statement names.
_AT_ONCE = 500


@dataclass(frozen=True)
class _Queued:
    """A job that the ledger takes for sent."""

    job: int
    attempts: int
    broker: str
    deadline: datetime


@dataclass
class Reconciler:
    """Compares the ledger with what is in Redis; remembers what it missed the last time."""

    engine: Engine
    broker: Broker
    settings: Settings
    _missing_since: dict[tuple[int, int], float] = field(default_factory=dict)

    def reconcile(self, jobs: Sequence[int] | None = None, *, held_are_lost: bool = False) -> int:
        """Put back what is lost or late; returns how many jobs that were.

        Parameters
        ----------
        jobs
            Only these; all where it is None.
        held_are_lost
            A worker has died: what workers hold counts as late now, not at its deadline.

        Raises
        ------
        TransientError
            The database or Redis is away; nothing is judged without both.
        """
        name = self.broker.name()
        queued = self._queued(jobs)
        transit = self.broker.transit() if queued else Transit(frozenset(), frozenset())
        flushed = [each for each in queued if self._is_flushed(each, name)]
        rest = [each for each in queued if not self._is_flushed(each, name)]
        late = [each for each in rest if self._is_late(each, name, transit, held_are_lost)]
        here = [each for each in rest if each.broker == name and each not in late]
        missing = self._missing(here, transit)
        self._put_back(flushed, "Redis lost its message.", counted=False)
        self._put_back(late, "It was still without a row at its deadline.", counted=True)
        self._put_back(missing, "Its message was lost.", counted=True)
        return len(flushed) + len(late) + len(missing)

    def grant_time(self, jobs: Sequence[int] | None = None) -> None:
        """Give all that is queued its full time again, after an outage that it had to wait for.

        Raises
        ------
        TransientError
            The database is away.
        """
        mine = [] if jobs is None else [Job.pk.in_(jobs)]
        with transaction(self.engine) as session:
            session.execute(
                update(Job)
                .where(Job.state == JobState.QUEUED, *mine)
                .values(deadline=now() + timedelta(seconds=self.settings.job_seconds))
                .execution_options(synchronize_session=False)
            )

    def _queued(self, jobs: Sequence[int] | None) -> list[_Queued]:
        mine = [] if jobs is None else [Job.pk.in_(jobs)]
        statement = select(Job.pk, Job.attempts, Job.broker, Job.deadline).where(
            Job.state == JobState.QUEUED, *mine
        )
        with reading(self.engine) as connection:
            return [
                _Queued(pk, attempts, broker or "", deadline or now())
                for pk, attempts, broker, deadline in connection.execute(statement)
            ]

    def _is_flushed(self, queued: _Queued, name: str) -> bool:
        """Whether it was sent to this Redis in an earlier life, of which nothing is left."""
        return queued.broker != name and queued.broker.startswith(self.broker.place)

    def _is_late(self, queued: _Queued, name: str, transit: Transit, held_are_lost: bool) -> bool:
        if queued.broker == name and queued.job in transit.queued:
            return False  # it waits for a worker; sending it once more would not help
        if queued.broker == name and queued.job in transit.held and held_are_lost:
            return True
        return queued.deadline <= now()

    def _missing(self, queued: Iterable[_Queued], transit: Transit) -> list[_Queued]:
        """The jobs whose messages were nowhere in two looks, some seconds apart."""
        moment = time.monotonic()
        gone = [each for each in queued if each.job not in transit.queued | transit.held]
        self._missing_since = {
            (each.job, each.attempts): self._missing_since.get((each.job, each.attempts), moment)
            for each in gone
        }
        return [
            each
            for each in gone
            if moment - self._missing_since[each.job, each.attempts] >= LOST_SECONDS
        ]

    def _put_back(self, queued: Sequence[_Queued], reason: str, *, counted: bool) -> None:
        if queued:
            logger.warning("action=reconcile jobs=%d: %s", len(queued), reason)
        for first in range(0, len(queued), _AT_ONCE):
            attempts = {each.job: each.attempts for each in queued[first : first + _AT_ONCE]}
            with transaction(self.engine) as session:
                statement = select(Job).where(Job.pk.in_(attempts), Job.state == JobState.QUEUED)
                found = session.scalars(statement.with_for_update()).all()
                # One that was sent again meanwhile, by another dispatcher, is no longer lost.
                same = [job for job in found if job.attempts == attempts[job.pk]]
                given_up = [job for job in same if counted and self._is_last(job)]
                record_failures(session, [_failure(job, reason) for job in given_up])
                for job in same:
                    if job not in given_up:
                        _let_wait(job, reason, counted=counted)

    def _is_last(self, job: Job) -> bool:
        return job.attempts >= self.settings.max_attempts


def _let_wait(job: Job, reason: str, *, counted: bool) -> None:
    job.state = JobState.WAITING
    job.updated_at = now()
    if counted:
        job.last_error = job.last_error or reason
    else:
        job.attempts = max(0, job.attempts - 1)


def _failure(job: Job, reason: str) -> Failure:
    return Failure(
        job=job.pk,
        spectrum=job.spectrum_pk,
        file_version=job.file_version,
        reason=f"Given up after {job.attempts} attempts. {job.last_error or reason}",
    )
