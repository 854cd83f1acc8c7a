"""Recording: noise model, flags, one row per job, and the job is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from worker import __version__
from worker.database.tables import AstroNN, Job, JobState, Spectrum, label_columns, now
from worker.database.upsert import upsert
from worker.flags import ResultFlag, flag_uncertain
from worker.messages import Failure, RecordLabels, Ticket
from worker.results.noise_model import NoiseModel


def record_labels(session: Session, message: RecordLabels, noise_model: NoiseModel) -> int:
    """Write labels; returns how many jobs this finished.

    A job that already has its row is left alone, so a message may come twice. So is one whose
    file was rewritten since the labels were made.
    """
    results = {each.job: each for each in message.results}
    raw = np.array([each.raw_labels for each in message.results])
    raw_e = np.array([each.raw_e_labels for each in message.results])
    e_labels = noise_model.apply(
        raw_e, _snr(session, message) if noise_model.depends_on_snr else None
    )
    flags = flag_uncertain(raw, e_labels)
    columns = np.concatenate([raw, e_labels, raw, raw_e], axis=1)
    values = {
        job: {
            **dict(zip(label_columns(), row.tolist(), strict=True)),
            "result_flags": int(flag),
            "corrections_sha256": noise_model.sha256,
            "mc_samples": message.mc_samples,
            "seed": message.seed,
            "t_elapsed": result.t_elapsed,
            "t_overhead": result.t_overhead,
            "no_result_reason": None,
        }
        for (job, result), row, flag in zip(results.items(), columns, flags, strict=True)
    }
    return _close_jobs(session, message.results, values)


def _snr(session: Session, message: RecordLabels) -> NDArray[np.float64]:
    """``(n,)`` S/N of the results' spectra; NaN where it is not known."""
    jobs = [each.job for each in message.results]
    statement = (
        select(Job.pk, Spectrum.snr)
        .join(Spectrum, Spectrum.pk == Job.spectrum_pk)
        .where(Job.pk.in_(jobs))
    )
    known = {row.pk: row.snr for row in session.execute(statement)}
    return np.array([known.get(job) for job in jobs], dtype=np.float64)


def record_failures(session: Session, failures: Sequence[Failure]) -> int:
    """Write a row without labels for each failure; returns how many jobs this finished."""
    return _close_jobs(
        session,
        failures,
        {
            each.job: {
                **dict.fromkeys(label_columns()),
                "result_flags": ResultFlag.NO_RESULT.value,
                "corrections_sha256": None,
                "mc_samples": None,
                "seed": None,
                "t_elapsed": None,
                "t_overhead": None,
                "no_result_reason": each.reason,
            }
            for each in failures
        },
    )


def note_setbacks(session: Session, failures: Sequence[Failure]) -> None:
    """Note in the ledger why jobs are late; those that are done meanwhile are left alone."""
    for job, _ in _open_jobs(session, failures):
        job.last_error = next(each.reason for each in failures if each.job == job.pk)


def _close_jobs(
    session: Session, tickets: Iterable[Ticket], values: dict[int, dict[str, Any]]
) -> int:
    moment = now()
    rows = [
        {
            "task_pk": job.pk,
            "spectrum_pk": job.spectrum_pk,
            "source_pk": source_pk,
            "weights_sha256": job.weights_sha256,
            "weights_name": job.weights_name,
            "tag": job.tag,
            "software_version": __version__,
            "created": moment,
            "modified": moment,
            **values[job.pk],
        }
        for job, source_pk in _open_jobs(session, tickets)
    ]
    upsert(session, AstroNN, rows, key=["task_pk"], keep=["created"])
    session.execute(
        update(Job)
        .where(Job.pk.in_([row["task_pk"] for row in rows]))
        .values(state=JobState.DONE, updated_at=moment)
    )
    return len(rows)


def _open_jobs(session: Session, tickets: Iterable[Ticket]) -> list[tuple[Job, int | None]]:
    """The jobs that still want these results, locked until the transaction ends (PostgreSQL)."""
    versions = {ticket.job: ticket.file_version for ticket in tickets}
    statement = (
        select(Job, Spectrum.source_pk)
        .join(Spectrum, Spectrum.pk == Job.spectrum_pk)
        .where(Job.pk.in_(list(versions)), Job.state != JobState.DONE)
        .order_by(Job.pk)
        .with_for_update(of=Job)
    )
    return [
        (job, source_pk)
        for job, source_pk in session.execute(statement)
        if job.file_version == versions[job.pk]
    ]
