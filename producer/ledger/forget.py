"""Forgetting: spectra that were registered by mistake, with their jobs and results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, Engine, delete, func, or_, select
from sqlalchemy.orm import Session

from producer.ledger.register import locked_jobs
from producer.ledger.requeue import blocks
from producer.sources.names import Named
from producer.sources.paths import catalogue_path, check_inside, place_of
from worker.database.session import transaction
from worker.database.tables import AstroNN, Job, JobState, Spectrum
from worker.errors import UsageError
from worker.text import counted


@dataclass(frozen=True)
class Forgotten:
    """How much is forgotten, or would be."""

    spectra: int
    jobs: int
    results: int


def forget(database: Engine, named: Named, data_root: Path, *, only_try: bool = False) -> Forgotten:
    """Delete spectra with their jobs and results: all of them, or none.

    Files stay; whoever registers them again gets spectra with other numbers.

    Parameters
    ----------
    named
        Spectra, and files and folders whose spectra are meant, whether or not they still exist.
    only_try
        Change nothing.

    Raises
    ------
    UsageError
        Nothing is registered of a file or folder, or a spectrum is under way.
    TransientError
        The database is away.
    """
    with transaction(database) as session:
        spectra = sorted({*named.spectra, *_in_files(session, named.paths, data_root)})
        parts = [_forget_some(session, block) for block in blocks(spectra)]
        if only_try:
            session.rollback()
    jobs, results = (sum(numbers) for numbers in zip((0, 0), *parts, strict=True))
    return Forgotten(len(spectra), jobs, results)


def _forget_some(session: Session, spectra: Sequence[int]) -> tuple[int, int]:
    """Returns how many jobs and results went with them."""
    jobs = locked_jobs(session, Job.spectrum_pk.in_(spectra))
    _check_none_under_way(session, spectra)
    results = session.scalar(
        select(func.count()).select_from(AstroNN).where(AstroNN.spectrum_pk.in_(spectra))
    )
    for table, key in (
        (AstroNN, AstroNN.spectrum_pk),
        (Job, Job.spectrum_pk),
        (Spectrum, Spectrum.pk),
    ):
        session.execute(
            delete(table).where(key.in_(spectra)).execution_options(synchronize_session=False)
        )
    return len(jobs), results or 0


def _check_none_under_way(session: Session, spectra: Sequence[int]) -> None:
    """A result that comes for a job that is gone would count as another database's."""
    queued = session.scalar(
        select(func.count())
        .select_from(Job)
        .where(Job.spectrum_pk.in_(spectra), Job.state == JobState.QUEUED)
    )
    if queued:
        raise UsageError(
            f"{counted(queued, 'job')} of these spectra {'is' if queued == 1 else 'are'} under "
            "way; wait for the rows or, where no stack runs, let them wait by `requeue --ids`."
        )


def _in_files(session: Session, paths: Sequence[Path], data_root: Path) -> Iterator[int]:
    """The spectra in files, and in all files below folders."""
    root = data_root.resolve()
    for path in paths:
        place = place_of(path, root)
        check_inside(path, place, root)
        found = session.scalars(select(Spectrum.pk).where(_at(catalogue_path(place, root)))).all()
        if not found:
            raise UsageError(f"Nothing is registered of {path}.")
        yield from found


def _at(path: str) -> ColumnElement[bool]:
    """A file of this path, or below it; LIKE would take upper case for lower (SQLite)."""
    below = "" if path == "." else f"{path}/"
    return or_(Spectrum.path == path, func.substr(Spectrum.path, 1, len(below)) == below)
