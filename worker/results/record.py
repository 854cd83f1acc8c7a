"""Recording: noise model, flags, one row per job, and the job is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select, update
from sqlalchemy.orm import Session

from worker.array_types import from_nulls, nulls
from worker.database.tables import AstroNN, Job, JobState, Spectrum, label_columns, now
from worker.database.upsert import upsert
from worker.flags import ResultFlag, flag_uncertain, flag_unlike_training
from worker.messages import (
    Failure,
    RecordLabels,
    Result,
    Setback,
    SpectrumLabels,
    Unread,
)
from worker.results.noise_model import NoiseModel
from worker.version import software_version

#: Far beyond what any network gives that is not refused as it is read.
_LARGEST = 1e9


def doubt(result: SpectrumLabels) -> str | None:
    """What of a result no network of ours can have given; None where all is well.

    The infer stage refuses labels that are not finite, and an uncertainty is a root. So such a
    result was damaged, or forged by somebody with access to Redis.
    """
    limits = (
        ("a label", result.raw_labels, -_LARGEST, _LARGEST),
        ("an uncertainty", result.raw_e_labels, 0.0, _LARGEST),
        ("a share of the training spectra", (result.p_training,), 0.0, 1.0),
        ("a time", (result.t_elapsed, result.t_overhead), 0.0, _LARGEST),
    )
    for what, values, lowest, highest in limits:
        for value in values:
            if value is not None and not lowest <= value <= highest:  # NaN is not either
                return f"{what} of {value:g}"
    missing = [
        [value is None for value in values] for values in (result.raw_labels, result.raw_e_labels)
    ]
    if missing[0] != missing[1]:
        return "labels without uncertainties, or uncertainties without labels"
    return "no label at all" if all(missing[0]) else None


def label_values(
    raw: NDArray[np.float64],
    raw_e: NDArray[np.float64],
    p_training: NDArray[np.float64],
    snr: NDArray[np.float64] | None,
    noise_model: NoiseModel,
) -> tuple[NDArray[np.float64], NDArray[np.int64], dict[int, str]]:
    """What becomes of the network's labels: all numbers of a row, and its flags.

    Parameters
    ----------
    raw, raw_e
        ``(n, 22)`` labels and uncertainties as the network gives them; NaN for a label that was
        not learnt, and then in all that is made of it.
    p_training
        ``(n,)`` share of the training spectra that are as unlike the others, NaN where unknown.
    snr
        ``(n,)`` S/N, NaN where it is not known; None for a noise model that ignores it.

    Returns
    -------
    values
        ``(n, 88)`` in the order of :func:`worker.database.tables.label_columns`.
    flags
        ``(n,)`` bits of :class:`worker.flags.ResultFlag`.
    spoilt
        Why some rows are to have no labels after all: the noise model leaves no uncertainty.
    """
    e_labels = noise_model.apply(raw_e, snr if noise_model.depends_on_snr else None)
    values, flags = (
        np.concatenate([raw, e_labels, raw, raw_e], axis=1),
        flag_uncertain(raw, e_labels) | flag_unlike_training(p_training),
    )
    reasons = {
        row: f"The noise model gives {what}."
        for row, what in noise_model.spoilt(raw_e, e_labels).items()
    }
    return values, flags, reasons


def record_labels(session: Session, message: RecordLabels, noise_model: NoiseModel) -> int:
    """Write labels; returns how many jobs this finished.

    A job that already has its row is left alone, so a message may come twice. So is one whose
    file was rewritten since the labels were made, and one that is not theirs: see
    :func:`strangers`.
    """
    results = {each.job: each for each in message.results}
    values, flags, spoilt = label_values(
        from_nulls([each.raw_labels for each in message.results]),
        from_nulls([each.raw_e_labels for each in message.results]),
        np.array([each.p_training for each in message.results], dtype=np.float64),
        _snr(session, message) if noise_model.depends_on_snr else None,
        noise_model,
    )
    rows = {
        job: {
            **dict(zip(label_columns(), nulls(row), strict=True)),
            "p_training": result.p_training,
            "result_flags": int(flag),
            "corrections_sha256": noise_model.sha256,
            "software_version": message.software,
            "mc_samples": message.mc_samples,
            "seed": message.seed,
            "t_elapsed": result.t_elapsed,
            "t_overhead": result.t_overhead,
            "no_result_reason": None,
        }
        for (job, result), row, flag in zip(results.items(), values, flags, strict=True)
    }
    jobs = list(results)  # as their values are
    rows |= {jobs[row]: _no_labels(reason) for row, reason in spoilt.items()}
    return _close_jobs(session, message.results, message.weights, rows)


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


def record_failures(
    session: Session, failures: Sequence[Failure], weights: str | None = None
) -> int:
    """Write a row without labels for each failure; returns how many jobs this finished.

    Parameters
    ----------
    weights
        Those that the jobs want; None where the failures were made of the jobs themselves.
    """
    rows = {each.job: _no_labels(each.reason) for each in failures}
    return _close_jobs(session, failures, weights, rows)


def _no_labels(reason: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(label_columns()),
        "p_training": None,
        "result_flags": ResultFlag.NO_RESULT.value,
        "software_version": software_version(),
        "corrections_sha256": None,
        "mc_samples": None,
        "seed": None,
        "t_elapsed": None,
        "t_overhead": None,
        "no_result_reason": reason,
    }


def note_setbacks(session: Session, message: Setback) -> None:
    """Note in the ledger why jobs are late; those that are done meanwhile are left alone.

    What goes back to wait is as if it had not been sent.
    """
    reasons = {each.job: each.reason for each in message.failures}
    for job, _ in _open_jobs(session, message.failures, message.weights):
        job.last_error = reasons[job.pk]
        if message.waiting and job.state == JobState.QUEUED:
            job.wait_again(counted=False)


def wait_again(session: Session, message: Unread) -> int:
    """Let the jobs of a message that nobody could read wait again, as if it had not been sent."""
    asked = [each.job for each in message.unread]
    statement = select(Job).where(Job.pk.in_(asked), Job.state == JobState.QUEUED).order_by(Job.pk)
    jobs = session.scalars(statement.with_for_update()).all()
    for job in jobs:
        job.last_error = "A worker of another version of the software got it."
        job.wait_again(counted=False)
    return len(jobs)


def strangers(connection: Connection, results: Iterable[Result], weights: str) -> list[Result]:
    """The results that are not those of the jobs whose numbers they bear.

    They come from another life of the database: it was restored, or a copy of it was used, and
    has given the numbers again; or two stacks with databases of their own share a Redis.
    """
    named = {each.job: each for each in results}
    statement = (
        select(Job.pk, Spectrum.natural_key, Job.weights_sha256)
        .join(Spectrum, Spectrum.pk == Job.spectrum_pk)
        .where(Job.pk.in_(list(named)))
    )
    known = {pk: (natural_key, of) for pk, natural_key, of in connection.execute(statement)}
    return [each for each in named.values() if known.get(each.job) != (each.natural_key, weights)]


def _close_jobs(
    session: Session,
    results: Iterable[Result],
    weights: str | None,
    values: dict[int, dict[str, Any]],
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
            "created": moment,
            "modified": moment,
            **values[job.pk],
        }
        for job, source_pk in _open_jobs(session, results, weights)
    ]
    upsert(session, AstroNN, rows, key=["task_pk"], keep=["created"])
    session.execute(
        update(Job)
        .where(Job.pk.in_([row["task_pk"] for row in rows]))
        .values(state=JobState.DONE, updated_at=moment)
    )
    return len(rows)


def _open_jobs(
    session: Session, results: Iterable[Result], weights: str | None
) -> list[tuple[Job, int | None]]:
    """The jobs that still want these results, locked until the transaction ends (PostgreSQL).

    A result is a job's if it is of the job's spectrum, file version and weights. What else makes
    labels, the seed and the number of passes, comes with the labels into the row.
    """
    whose = {each.job: (each.natural_key, each.file_version) for each in results}
    statement = (
        select(Job, Spectrum.source_pk, Spectrum.natural_key)
        .join(Spectrum, Spectrum.pk == Job.spectrum_pk)
        .where(Job.pk.in_(list(whose)), Job.state != JobState.DONE)
        .order_by(Job.pk)
        .with_for_update(of=Job)
    )
    return [
        (job, source_pk)
        for job, source_pk, natural_key in session.execute(statement)
        if (natural_key, job.file_version) == whose[job.pk]
        and weights in (None, job.weights_sha256)
    ]
