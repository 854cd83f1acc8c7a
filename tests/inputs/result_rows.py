"""A small database of results, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from worker.database.session import opened, transaction
from worker.database.tables import AstroNN, Job, JobState, Source, Spectrum, label_columns
from worker.flags import ResultFlag
from worker.version import __version__

FILE = "r6/apStar-r6-2M00452143+1634446.fits"
REASON = "No flux in Ångström’s chip – “blue”, and\na comma."
MOMENT = datetime(2024, 6, 7, 12, 30, 15, 250_000, tzinfo=UTC)


def spectrum(pk: int, **changes: Any) -> Spectrum:
    values = {
        "source_pk": 1,
        "kind": "visit",
        "path": FILE,
        "member": f"apVisit-r6-6561-56587-{pk}.fits",
        "natural_key": f"key {pk}",
        "file_version": "1",
        "apred": "r6",
        "telescope": "apo25m",
        "field": "4536",
        "obj": "2M00452143+1634446",
        "plate": "6561",
        "mjd": 56587,
        "fiber": pk,
        "snr": 100.25 + pk,
        "spectrum_flags": 2**40 + pk,
        "created": MOMENT,
        "modified": MOMENT,
    }
    return Spectrum(pk=pk, **(values | changes))


def result(pk: int, flags: int, **changes: Any) -> AstroNN:
    """A row whose label columns are 1000 pk, 1000 pk + 1, ..., or empty without result."""
    labelled = not flags & ResultFlag.NO_RESULT
    numbers = [1000.0 * pk + n if labelled else None for n in range(88)]
    values = {
        **dict(zip(label_columns(), numbers, strict=True)),
        "source_pk": 1,
        "weights_sha256": "ab" * 32,
        "weights_name": "own.pt",
        "tag": "first",
        "software_version": __version__,
        "mc_samples": 100 if labelled else None,
        "seed": 2**40 if labelled else None,
        "t_elapsed": 0.5 if labelled else None,
        "t_overhead": 0.125 if labelled else None,
        "created": MOMENT,
        "modified": MOMENT + timedelta(seconds=1),
        "result_flags": flags,
    }
    return AstroNN(task_pk=10 + pk, spectrum_pk=pk, **(values | changes))


def job(pk: int, tag: str) -> Job:
    return Job(
        pk=10 + pk,
        spectrum_pk=pk,
        weights_sha256="ab" * 32,
        tag=tag,
        lane="bulk",
        state=JobState.DONE,
        attempts=1,
        file_version="1",
        updated_at=MOMENT,
    )


def small_database(folder: Path) -> AbstractContextManager[Engine]:
    """The rows of :func:`filled` in a file."""
    return filled(f"sqlite:///{folder / 'rows.sqlite'}")


def store(engine: Engine, spectra: Iterable[Spectrum], results: Iterable[AstroNN]) -> None:
    """Put results into a database, with their spectra, their jobs and the star of all."""
    results = list(results)
    with transaction(engine) as session:
        for rows in (
            [Source(pk=1, obj="2M00452143+1634446")],
            spectra,
            [job(each.spectrum_pk, each.tag) for each in results],
            results,
        ):
            session.add_all(rows)
            session.flush()


@contextmanager
def filled(url: str) -> Iterator[Engine]:
    """A coadd, three visits and a spectrum without a star; one of them has no labels."""
    coadd = {"kind": "coadd", "member": "coadd", "plate": None, "mjd": None, "fiber": None}
    results = [
        result(1, 0, corrections_sha256="cd" * 32, weights_name=None),  # of an older version
        result(2, 2),
        result(3, 7, tag="second", created=MOMENT.astimezone(timezone(timedelta(hours=2)))),
        result(4, ResultFlag.NO_RESULT, no_result_reason=REASON),
        result(5, 5, source_pk=None),
    ]
    with opened(url) as engine:
        spectra = [
            spectrum(1, **coadd, n_visits=3, healpix=77),
            *(spectrum(pk) for pk in (2, 3, 4)),
            spectrum(5, source_pk=None, obj="Ångström", path="a first/file.fits"),
        ]
        store(engine, spectra, results)
        yield engine
