"""Releasing: jobs that wait in the ledger become messages while there is room for them.

A backlog of millions waits in the ledger. Of each lane at most ``in_flight`` spectra are under
way, which bounds what Redis has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from typing import cast

from sqlalchemy import ColumnElement, Engine, func, select, tuple_, update
from sqlalchemy.orm import Session

from worker.app import publish
from worker.database.session import reading, transaction
from worker.database.tables import Job, JobState, Spectrum, now
from worker.messages import LoadSpectra, SpectrumReference
from worker.queues import LANES, Lane
from worker.settings import Settings

#: The chunk size that makes each file a message.
_ALONE = 0
#: The number of PostgreSQL's advisory lock for dispatching; any that nothing else uses.
_TURN = 0x6173_7472_6F4E_4E  # "astroNN"
#: The columns of the index by which jobs that wait are found, and more than any key.
_QUEUE = (Job.state, Job.lane, Job.weights_sha256, Job.pk)
_LAST = 2**63 - 1
#: Jobs that are sent in one transaction.
_AT_ONCE = 500

Send = Callable[[LoadSpectra], None]


def release(
    database: Engine,
    send: Send,
    settings: Settings,
    broker: str,
    *,
    weights: str,
    jobs: Sequence[int] | None = None,
) -> int:
    """Send jobs that wait, the oldest first, until each lane is full; live before bulk.

    The ledger is written in the transaction in which the messages are sent, and the jobs'
    rows stay locked until it ends: a result that comes back at once waits for it. Several
    dispatchers may do this at the same time.

    Parameters
    ----------
    broker
        The name of the Redis that the messages go to.
    weights
        Only jobs for these.
    jobs
        Only these; all where it is None.

    Returns
    -------
    int
        How many spectra were sent.

    Raises
    ------
    TransientError
        The database or Redis is away; what was not sent stays waiting.
    """
    sent = 0
    for lane in LANES:
        waiting = _waiting(lane, weights, jobs)
        while part := _release_some(database, send, settings, broker, lane, waiting):
            sent += part
    return sent


def _release_some(
    database: Engine,
    send: Send,
    settings: Settings,
    broker: str,
    lane: Lane,
    waiting: list[ColumnElement[bool]],
) -> int:
    with reading(database) as connection:  # a look first: SQLite has one writer at a time
        if not connection.scalar(select(Job.pk).where(*waiting).order_by(*_QUEUE).limit(1)):
            return 0
    with transaction(database) as session:
        _take_turns(session)
        room = settings.in_flight - _under_way(session, lane, broker)
        if room < settings.in_flight // 4:
            return 0  # a slice at a time, of whole files and full messages
        taken = session.execute(
            select(Job.pk, Job.attempts)
            .where(*waiting)
            .order_by(*_QUEUE)
            .limit(min(room, _AT_ONCE))
            .with_for_update(skip_locked=True)
        ).all()
        _mark_queued(session, [job for job, _ in taken], settings, broker)
        # What went wrong once goes alone: it shall not take other files along again.
        for again, size in ((False, settings.chunk_size), (True, _ALONE)):
            part = [job for job, attempts in taken if (attempts > 0) == again]
            for message in load_messages(session, part, chunk_size=size):
                send(message)
        return len(taken)


def _take_turns(session: Session) -> None:
    """Let one dispatcher at a time count what is under way and add to it.

    A writer of SQLite is alone anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_TURN)))


def _waiting(lane: Lane, weights: str, jobs: Sequence[int] | None) -> list[ColumnElement[bool]]:
    """The jobs of a lane that wait: these, or all, as a range of the index.

    A range, since with three equalities the planner of PostgreSQL may take the oldest jobs for
    the likeliest to wait, and walk through all that are done.
    """
    queue = (JobState.WAITING.value, lane, weights)
    if jobs is not None:
        same = [column == value for column, value in zip(_QUEUE, queue, strict=False)]
        return [*same, Job.pk.in_(jobs)]
    return [tuple_(*_QUEUE) > (*queue, 0), tuple_(*_QUEUE) < (*queue, _LAST)]


def _under_way(session: Session, lane: Lane, broker: str) -> int:
    statement = select(func.count()).where(
        Job.state == JobState.QUEUED, Job.lane == lane, Job.broker == broker
    )
    return session.scalar(statement) or 0


def _mark_queued(session: Session, jobs: list[int], settings: Settings, broker: str) -> None:
    moment = now()
    session.execute(
        update(Job)
        .where(Job.pk.in_(jobs))
        .values(
            state=JobState.QUEUED,
            attempts=Job.attempts + 1,
            broker=broker,
            enqueued_at=moment,
            deadline=moment + timedelta(seconds=settings.job_seconds),
            updated_at=moment,
        )
        .execution_options(synchronize_session=False)
    )


def load_messages(session: Session, jobs: Sequence[int], *, chunk_size: int) -> list[LoadSpectra]:
    """The messages that ask for these jobs, except those that are done.

    A chunk holds about ``chunk_size`` spectra: files are never split, small ones share a
    chunk; none does where it is 0.
    """
    rows = session.execute(
        select(Job, Spectrum.path, Spectrum.member)
        .join(Spectrum, Spectrum.pk == Job.spectrum_pk)
        .where(Job.pk.in_(jobs), Job.state != JobState.DONE)
        .order_by(Job.weights_sha256, Job.lane, Spectrum.path, Spectrum.pk)
    ).all()
    messages = []
    for (weights, lane), group in groupby(
        rows, key=lambda row: (row[0].weights_sha256, row[0].lane)
    ):
        references = [_reference(*row) for row in group]
        chunks = _chunks(references, chunk_size)
        messages += [
            LoadSpectra(lane=cast(Lane, lane), weights=weights, spectra=tuple(chunk))
            for chunk in chunks
        ]
    return messages


def _reference(job: Job, path: str, member: str) -> SpectrumReference:
    return SpectrumReference(
        job=job.pk,
        spectrum=job.spectrum_pk,
        file_version=job.file_version,
        path=path,
        member=member,
    )


def _chunks(
    references: Iterable[SpectrumReference], size: int
) -> Iterator[list[SpectrumReference]]:
    chunk: list[SpectrumReference] = []
    for _, file in groupby(references, key=lambda reference: reference.path):
        spectra = list(file)
        if chunk and len(chunk) + len(spectra) > size:
            yield chunk
            chunk = []
        chunk += spectra
    if chunk:
        yield chunk


def send(message: LoadSpectra) -> None:
    """Send a message of a dispatcher.

    It is not patient: the jobs' rows are locked meanwhile, and the next round tries again.
    """
    publish(message, patient=False)
