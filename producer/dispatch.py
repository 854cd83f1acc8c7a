"""Dispatch: open jobs to messages, in chunks that keep the spectra of a file together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from worker.database.session import transaction
from worker.database.tables import Job, JobState, Spectrum, now
from worker.messages import Lane, LoadSpectra, SpectrumReference

_AT_ONCE = 500


def load_messages(
    session: Session, jobs: Sequence[int], *, weights: str, lane: Lane, chunk_size: int
) -> list[LoadSpectra]:
    """The messages that ask for these jobs, those done already left out.

    A chunk holds about ``chunk_size`` spectra: files are never split, small ones share a
    chunk.
    """
    rows = session.execute(
        select(Job.pk, Spectrum.pk, Spectrum.path, Spectrum.member)
        .join(Spectrum, Spectrum.pk == Job.spectrum_pk)
        .where(Job.pk.in_(jobs), Job.state != JobState.DONE)
        .order_by(Spectrum.path, Spectrum.pk)
    )
    references = [
        SpectrumReference(job=job, spectrum=spectrum, path=path, member=member)
        for job, spectrum, path, member in rows
    ]
    return [
        LoadSpectra(lane=lane, weights=weights, spectra=tuple(chunk))
        for chunk in _chunks(references, chunk_size)
    ]


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


def dispatch(
    engine: Engine,
    jobs: Iterable[int],
    send: Callable[[LoadSpectra], None],
    *,
    weights: str,
    lane: Lane,
    chunk_size: int,
) -> int:
    """Send the messages of open jobs and note in the ledger that they are queued.

    The ledger is written in the transaction in which the messages are sent, and the jobs'
    rows stay locked until it ends: a result that comes back at once waits for it.

    Returns
    -------
    int
        How many spectra were sent.
    """
    sent = 0
    remaining = iter(jobs)
    while batch := list(islice(remaining, _AT_ONCE)):
        with transaction(engine) as session:
            session.execute(
                update(Job)
                .where(Job.pk.in_(batch), Job.state != JobState.DONE)
                .values(
                    state=JobState.QUEUED,
                    attempts=Job.attempts + 1,
                    enqueued_at=now(),
                    updated_at=now(),
                )
            )
            messages = load_messages(
                session, batch, weights=weights, lane=lane, chunk_size=chunk_size
            )
            for message in messages:
                send(message)
                sent += len(message.spectra)
    return sent
