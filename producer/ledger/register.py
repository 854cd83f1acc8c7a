"""Registering: catalogue rows for spectra and open jobs for what has no result yet.

All of it may be done again at any time; what is there already stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    and_,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from producer.sources.files import CatalogueEntry
from worker.database.session import transaction
from worker.database.tables import Job, JobState, Kind, Source, Spectrum, UtcDateTime, now
from worker.database.upsert import insert_missing, upsert
from worker.queues import Lane
from worker.spectra.versions import ABSENT

#: Spectra that one transaction registers.
_AT_ONCE = 500


@dataclass(frozen=True)
class Registered:
    """The jobs of the spectra given: all, those without a result, and those not sent yet."""

    jobs: list[int]
    open_jobs: list[int]
    waiting_jobs: list[int]


def register(
    session: Session,
    entries: Sequence[CatalogueEntry],
    *,
    weights: str,
    weights_name: str,
    tag: str,
    lane: Lane,
) -> Registered:
    """Register spectra and open a job for each under these weights and this tag.

    A job that is done stays done, unless its file was rewritten since; then it is opened
    again. What the catalogue knows of a file that is not there any more stays, as do labels that
    were made of it. Give some hundred at a time: a statement takes a bounded number of
    parameters. Rows are locked in their order, so that another process that
    registers the same files at that time waits.
    """
    spectra = _register_spectra(session, entries)
    jobs = _open_jobs(
        session, spectra, weights=weights, weights_name=weights_name, tag=tag, lane=lane
    )
    return Registered(
        [pk for pk, _ in jobs],
        [pk for pk, state in jobs if state != JobState.DONE],
        [pk for pk, state in jobs if state == JobState.WAITING],
    )


def register_all(
    engine: Engine,
    entries: Iterable[CatalogueEntry],
    *,
    weights: str,
    weights_name: str,
    tag: str,
    lane: Lane,
) -> Iterator[Registered]:
    """Register any number of spectra, a part in a transaction; see :func:`register`.

    Entries are taken between transactions, so that results can be written while files are read.
    """
    for part in _parts(entries):
        with transaction(engine) as session:
            registered = register(
                session,
                part,
                weights=weights,
                weights_name=weights_name,
                tag=tag,
                lane=lane,
            )
        yield registered


def _parts(entries: Iterable[CatalogueEntry]) -> Iterator[list[CatalogueEntry]]:
    """Some hundred spectra at a time, each once; those of a file that come together stay so."""
    part: dict[tuple[str, str], CatalogueEntry] = {}
    for _, file in groupby(entries, key=lambda entry: entry.path):
        part |= {(entry.path, entry.member): entry for entry in file}
        if len(part) >= _AT_ONCE:
            yield list(part.values())
            part = {}
    if part:
        yield list(part.values())


def files_with_jobs(
    connection: Connection, paths: Collection[str], *, weights: str, tag: str
) -> set[tuple[str, str]]:
    """Which of these files have a job for each of their spectra, and for which version.

    How many they have is known with the coadd; a file of which only visits have jobs is not done.

    Parameters
    ----------
    paths
        As the catalogue has them, some hundred at a time.

    Returns
    -------
    set
        Pairs of path and file version.
    """
    coadds = func.count().filter(Spectrum.kind == Kind.COADD)
    spectra = 1 + func.coalesce(func.max(Spectrum.n_visits), 0)
    statement = (
        select(Spectrum.path, Job.file_version)
        .join(Job, Job.spectrum_pk == Spectrum.pk)
        .where(Spectrum.path.in_(paths), Job.weights_sha256 == weights, Job.tag == tag)
        .group_by(Spectrum.path, Job.file_version)
        .having(coadds >= 1, func.count() >= spectra)
    )
    return {(path, version) for path, version in connection.execute(statement)}


def _register_spectra(session: Session, entries: Sequence[CatalogueEntry]) -> list[int]:
    moment = now()
    sources = _register_sources(session, entries)
    gone = {entry.path for entry in entries if entry.file_version == ABSENT}
    kept = _spectra_of(session, gone) if gone else {}
    rows = []
    for entry in sorted(entries, key=lambda entry: entry.path):  # a file keeps its own order
        if entry.file_version == ABSENT and (entry.path, entry.member) in kept:
            continue
        row = dict(vars(entry))
        del row["ra"], row["dec"]
        row |= {"source_pk": sources.get(entry.obj), "created": moment, "modified": moment}
        rows.append(row)
    upsert(session, Spectrum, rows, key=["path", "member"], keep=["created"])
    found = _spectra_of(session, {entry.path for entry in entries})
    return [found[entry.path, entry.member] for entry in entries]


def _spectra_of(session: Session, paths: Collection[str]) -> dict[tuple[str, str], int]:
    """The keys of the spectra of these files that the catalogue knows, by path and member."""
    statement = select(Spectrum.pk, Spectrum.path, Spectrum.member).where(Spectrum.path.in_(paths))
    return {(path, member): pk for pk, path, member in session.execute(statement)}


def _register_sources(session: Session, entries: Sequence[CatalogueEntry]) -> dict[str | None, int]:
    told = sorted(entries, key=lambda entry: entry.ra is not None)  # entries with a position last
    stars = {entry.obj: entry for entry in told if entry.obj is not None}
    rows = [{"obj": obj, "ra": star.ra, "dec": star.dec} for obj, star in sorted(stars.items())]
    upsert(session, Source, rows, key=["obj"], keep=["ra", "dec"])
    statement = select(Source.pk, Source.obj, Source.ra).where(Source.obj.in_(stars))
    found = session.execute(statement.order_by(Source.pk)).all()
    for pk, obj, ra in found:
        if ra is None and stars[obj].ra is not None:  # its first file could not be read
            place = {"ra": stars[obj].ra, "dec": stars[obj].dec}
            session.execute(update(Source).where(Source.pk == pk).values(place))
    return {obj: pk for pk, obj, _ in found}


def _open_jobs(
    session: Session,
    spectra: list[int],
    *,
    weights: str,
    weights_name: str,
    tag: str,
    lane: Lane,
) -> list[tuple[int, str]]:
    """Key and state of the job of each spectrum, in the order of the spectra."""
    moment = now()
    # All in one statement: each adds to the tally.
    new = (
        select(
            Spectrum.pk.label("spectrum_pk"),
            literal(weights).label("weights_sha256"),
            literal(weights_name).label("weights_name"),
            literal(tag).label("tag"),
            literal(lane).label("lane"),
            literal(JobState.WAITING.value).label("state"),
            literal(0).label("attempts"),
            Spectrum.file_version,
            literal(moment, UtcDateTime()).label("updated_at"),
        )
        .where(Spectrum.pk.in_(spectra))
        .order_by(Spectrum.pk)
    )
    insert_missing(session, Job, new, key=["spectrum_pk", "weights_sha256", "tag"])
    mine = (Job.spectrum_pk.in_(spectra), Job.weights_sha256 == weights, Job.tag == tag)
    current = select(Spectrum.file_version).where(Spectrum.pk == Job.spectrum_pk).scalar_subquery()
    rewritten = Job.file_version != current
    differs = or_(Job.lane != lane, Job.weights_name.is_distinct_from(weights_name))
    misplaced = and_(Job.state == JobState.WAITING, differs)
    # Once for both changes: locked after each other, the whole would be in no order.
    if changing := locked_jobs(session, *mine, or_(rewritten, misplaced)):
        of_these = update(Job).where(Job.pk.in_(changing))
        reopened = of_these.where(rewritten).values(
            state=JobState.WAITING,
            attempts=0,
            last_error=None,
            file_version=current,
            updated_at=moment,
        )
        moved = of_these.where(misplaced).values(lane=lane, weights_name=weights_name)
        for change in (reopened, moved):
            session.execute(change.execution_options(synchronize_session=False))
    jobs = {
        spectrum: (pk, state)
        for spectrum, pk, state in session.execute(
            select(Job.spectrum_pk, Job.pk, Job.state).where(*mine)
        )
    }
    return [jobs[pk] for pk in spectra]


def locked_jobs(session: Session, *conditions: ColumnElement[bool]) -> Sequence[int]:
    """The jobs of which this is true, locked in the order in which recorders lock jobs.

    An update alone would lock them as it finds them, and the two could wait for each other.
    """
    found = select(Job.pk).where(*conditions).order_by(Job.pk).with_for_update()
    return session.scalars(found).all()
