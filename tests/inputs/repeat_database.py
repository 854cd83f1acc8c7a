"""Results of visits, written into a database."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import Engine, insert

from tests.inputs.result_rows import MOMENT
from worker.calibration.repeats import Visits
from worker.database.session import transaction
from worker.database.tables import AstroNN, Job, JobState, Source, Spectrum
from worker.flags import flag_uncertain
from worker.labels import LABEL_NAMES

WEIGHTS = "ab" * 32


def fill(engine: Engine, visits: Visits, *, tag: str = "", weights: str = WEIGHTS) -> None:
    """A spectrum, a job and a result for each visit, flagged as its uncertainties say.

    A second call adds results of the same spectra.
    """
    flags = flag_uncertain(visits.labels, visits.e_labels)
    with transaction(engine) as session:
        first = session.query(Spectrum).count() == 0
        last_job = session.query(Job).count()
        if first:
            stars = [{"pk": int(pk) + 1, "obj": f"star {pk}"} for pk in np.unique(visits.star)]
            session.execute(insert(Source), stars)
            session.execute(insert(Spectrum), [_spectrum(visits, n) for n in range(len(visits))])
        rows = range(len(visits))
        session.execute(insert(Job), [_job(n, last_job, tag, weights) for n in rows])
        session.execute(
            insert(AstroNN),
            [
                {
                    **_job_keys(n, last_job, tag, weights),
                    **_labels(visits, n),
                    "source_pk": int(visits.star[n]) + 1,
                    "result_flags": int(flags[n]),
                }
                for n in rows
            ],
        )


def _spectrum(visits: Visits, n: int) -> dict[str, Any]:
    mjd, fiber = visits.observation[n].tolist()
    return {
        "pk": n + 1,
        "source_pk": int(visits.star[n]) + 1,
        "kind": "visit",
        "path": f"star-{visits.star[n]}.fits",
        "member": f"visit-{n}",
        "natural_key": f"key {n}",
        "file_version": "1",
        "mjd": None if mjd < 0 else mjd,
        "fiber": None if fiber < 0 else fiber,
        "snr": float(visits.snr[n]) if np.isfinite(visits.snr[n]) else None,
        "obj": f"star {visits.star[n]}",
        "created": MOMENT,
        "modified": MOMENT,
    }


def _job(n: int, last_job: int, tag: str, weights: str) -> dict[str, Any]:
    return {
        "pk": last_job + n + 1,
        "spectrum_pk": n + 1,
        "weights_sha256": weights,
        "tag": tag,
        "lane": "bulk",
        "state": JobState.DONE,
        "attempts": 1,
        "file_version": "1",
        "updated_at": MOMENT,
    }


def _job_keys(n: int, last_job: int, tag: str, weights: str) -> dict[str, Any]:
    return {
        "task_pk": last_job + n + 1,
        "spectrum_pk": n + 1,
        "weights_sha256": weights,
        "weights_name": f"weights {weights[:2]}",
        "tag": tag,
        "software_version": "1",
        "mc_samples": 100,
        "seed": 0,
        "created": MOMENT,
        "modified": MOMENT,
    }


def _labels(visits: Visits, n: int) -> dict[str, float]:
    columns = zip(
        LABEL_NAMES, visits.labels[n], visits.e_labels[n], visits.raw_e_labels[n], strict=True
    )
    return {
        key: float(value)
        for name, label, e_label, raw_e in columns
        for key, value in (
            (name, label),
            (f"e_{name}", e_label),
            (f"raw_{name}", label),
            (f"raw_e_{name}", raw_e),
        )
    }
