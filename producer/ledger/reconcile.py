"""Reconciling: jobs that count as sent, but that are nowhere in Redis, are sent again.

Redis may lose what it holds; the ledger may not. A job whose message is nowhere, or that a
worker has held for too long, goes back to waiting. After ``max_attempts`` it ends as a row
without labels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from worker.database.session import reading, transaction
from worker.database.tables import Job, JobState, Spectrum, now
from worker.messages import Failure
from worker.results.record import record_failures
from worker.settings import Settings
from worker.transport.broker import Broker, Transit

logger = logging.getLogger(__name__)

#: A message is nowhere for milliseconds while a worker takes it; longer, and it is lost.
LOST_SECONDS = 3.0
_FLUSHED = "Redis lost its message."
_LOST = "Its message was lost."
_LATE = "A worker held it for too long."
#: Jobs that one statement names.
_AT_ONCE = 500


@dataclass(frozen=True)
class _Queued:
    """A job that counts as sent."""

    job: int
    attempts: int
    broker: str
    deadline: datetime

    def is_sending_of(self, job: Job) -> bool:
        """Whether the job was not sent once more since."""
        return (job.attempts, job.broker or "") == (self.attempts, self.broker)


class _Watch:
    """Since when a condition has held for each job, over several looks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[_Queued, float] = {}

    def longer_than(self, seconds: float, queued: Sequence[_Queued]) -> list[_Queued]:
        """The jobs for which it holds now and has held for so many seconds."""
        moment = self._clock()
        self._since = {each: self._since.get(each, moment) for each in queued}
        return [each for each, since in self._since.items() if moment - since >= seconds]


@dataclass
class Reconciler:
    """Compares the ledger with what is in Redis; remembers what it saw the last time."""

    database: Engine
    broker: Broker
    settings: Settings
    clock: Callable[[], float] = time.monotonic
    _names: set[str] = field(default_factory=set)
    _missing: _Watch = field(init=False)
    _held: _Watch = field(init=False)

    def __post_init__(self) -> None:
        self.forget()

    def reconcile(self, jobs: Sequence[int] | None = None, *, held_are_lost: bool = False) -> int:
        """Put back what is lost or late; returns how many jobs that were.

        Parameters
        ----------
        jobs
            Only these; all where it is None.
        held_are_lost
            A worker has died: what workers hold counts as late now, not after its time.

        Raises
        ------
        TransientError
            The database or Redis is away; nothing is judged without both.
        """
        name = self.broker.name()
        queued = self._queued(jobs)
        transit = self.broker.transit() if queued else Transit()
        here = [each for each in queued if each.broker == name]
        elsewhere = [each for each in queued if each.broker != name]
        flushed = [each for each in elsewhere if self._is_flushed(each)]
        foreign = [each for each in elsewhere if not self._is_flushed(each)]
        late = [each for each in foreign if each.deadline <= now()]
        late += self._late(here, transit, held_are_lost)
        missing = self._missing.longer_than(
            LOST_SECONDS, [each for each in here if each.job not in transit.queued | transit.held]
        )
        self._names.add(name)
        self._put_back(flushed, _FLUSHED, counted=False)
        self._put_back(late, _LATE, counted=True)
        self._put_back(missing, _LOST, counted=True)
        return len(flushed) + len(late) + len(missing)

    def forget(self) -> None:
        """Restart all clocks: during an outage no job could move."""
        self._missing, self._held = _Watch(self.clock), _Watch(self.clock)

    def _queued(self, jobs: Sequence[int] | None) -> list[_Queued]:
        mine = [] if jobs is None else [Job.pk.in_(jobs)]
        statement = select(Job.pk, Job.attempts, Job.broker, Job.deadline).where(
            Job.state == JobState.QUEUED, *mine
        )
        with reading(self.database) as connection:
            return [
                _Queued(pk, attempts, broker or "", deadline or now())
                for pk, attempts, broker, deadline in connection.execute(statement)
            ]

    def _is_flushed(self, queued: _Queued) -> bool:
        """Whether it was sent to this Redis before that lost its content."""
        return queued.broker in self._names or self.broker.is_place_of(queued.broker)

    def _late(
        self, here: Sequence[_Queued], transit: Transit, held_are_lost: bool
    ) -> list[_Queued]:
        """The jobs that a worker has held too long.

        One that is in a queue waits for a worker, and one that was tried again waits for what
        is away: sending them once more would not help.
        """
        held = [each for each in here if each.job in transit.held - transit.queued]
        if held_are_lost:
            return held
        working = [each for each in held if each.job not in transit.retried]
        return self._held.longer_than(self.settings.job_seconds, working)

    def _put_back(self, queued: Sequence[_Queued], reason: str, *, counted: bool) -> None:
        if queued:
            logger.warning("action=reconcile jobs=%d: %s", len(queued), reason)
        for first in range(0, len(queued), _AT_ONCE):
            seen = {each.job: each for each in queued[first : first + _AT_ONCE]}
            with transaction(self.database) as session:
                statement = select(Job).where(Job.pk.in_(seen), Job.state == JobState.QUEUED)
                found = session.scalars(statement.order_by(Job.pk).with_for_update()).all()
                # One that was sent again meanwhile, by another dispatcher, is no longer lost.
                same = [job for job in found if seen[job.pk].is_sending_of(job)]
                given_up = [job for job in same if counted and self._is_last(job)]
                record_failures(session, [_failure(session, job, reason) for job in given_up])
                for job in same:
                    if job not in given_up:
                        _let_wait(job, reason, counted=counted)

    def _is_last(self, job: Job) -> bool:
        return job.attempts >= self.settings.max_attempts


def _let_wait(job: Job, reason: str, *, counted: bool) -> None:
    job.wait_again(counted=counted)
    if counted:
        job.last_error = _last_error(job, reason)


def _failure(session: Session, job: Job, reason: str) -> Failure:
    return Failure(
        job=job.pk,
        spectrum=job.spectrum_pk,
        file_version=job.file_version,
        natural_key=session.get_one(Spectrum, job.spectrum_pk).natural_key,
        reason=f"Given up after {job.attempts} attempts. {_last_error(job, reason)}",
    )


def _last_error(job: Job, reason: str) -> str:
    """What a stage has said of the job tells more than that it is late."""
    said = job.last_error
    return reason if said is None or said in (_LOST, _LATE) else said
