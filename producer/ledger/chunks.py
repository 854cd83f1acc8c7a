"""Chunks: jobs as messages of a few spectra, those of a file together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.database.tables import Job, JobState, Spectrum
from worker.identity import mask_key
from worker.messages import LoadSpectra, SpectrumReference
from worker.queues import Lane

#: What a message says of a spectrum, and what was observed: the key of its masks.
_COLUMNS = (
    *(Spectrum.path, Spectrum.member, Spectrum.snr),
    *(Spectrum.obj, Spectrum.plate, Spectrum.mjd, Spectrum.fiber),
)


def load_messages(session: Session, jobs: Sequence[int], *, chunk_size: int) -> list[LoadSpectra]:
    """The messages that ask for these jobs, except those that are done.

    A chunk holds about ``chunk_size`` spectra: files are never split, small ones share a
    chunk; none does where it is 0.
    """
    rows = session.execute(
        select(Job, *_COLUMNS)
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


def _reference(
    job: Job, path: str, member: str, snr: float | None, *observed: Any
) -> SpectrumReference:
    return SpectrumReference(
        job=job.pk,
        spectrum=job.spectrum_pk,
        file_version=job.file_version,
        path=path,
        member=member,
        snr=snr if snr is not None and math.isfinite(snr) else None,
        mask_key=mask_key(path, member, *observed),
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
