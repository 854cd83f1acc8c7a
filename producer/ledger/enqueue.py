"""Enqueueing: spectra of files, names or a summary table get open jobs in the ledger.

``enqueue`` is what ``from producer import enqueue`` gives to other pipelines, and what the
command of that name calls. It writes to the database alone; the stack's dispatcher sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from producer.ledger.register import Registered, register_all
from producer.ledger.served import check_stack
from producer.progress import Bar, no_bar
from producer.sources.files import CatalogueEntry, Wanted, find_files, spectra_of
from producer.sources.names import Name, catalogued, look_up
from producer.sources.summary_table import SummaryTable
from worker.database.session import opened
from worker.identity import weights_sha256
from worker.queues import Lane
from worker.settings import Settings, get_settings
from worker.spectra.versions import ABSENT
from worker.starter.bundled import weights_name

#: What becomes of spectra whose file is not there: rows that say so, or nothing.
Missing = Literal["record", "skip"]

#: Missing files that are named.
_NAMED = 3


@dataclass(frozen=True)
class Enqueued:
    """What became of the spectra given.

    Attributes
    ----------
    spectra, files
        How many spectra have a job now, and in how many files they lie.
    waiting
        Jobs that were opened, or waited already.
    under_way
        Jobs that had been sent before.
    done
        Jobs that have their result, from the same version of the file.
    missing
        How many files are not there; ``first_missing`` are the first of them.
    """

    spectra: int
    files: int
    waiting: int
    under_way: int
    done: int
    missing: int
    first_missing: tuple[str, ...]


def enqueue(
    spectra: Iterable[Name] = (),
    *,
    summary: Path | None = None,
    root: Path | None = None,
    kind: Wanted | None = None,
    lane: Lane = "live",
    tag: str = "",
    missing: Missing = "record",
    settings: Settings | None = None,
    bar: Bar = no_bar,
) -> Enqueued:
    """Open a job for each spectrum that has no result yet; the stack then processes them.

    It may be called again with the same spectra at any time: none is processed twice, unless
    its file was rewritten.

    Parameters
    ----------
    spectra
        Files and folders, or names that the table of results gives spectra: ``spectrum_pk``,
        ``natural_key``, ``path`` or ``obj``.
    summary
        An allStar or allVisit table of DR17 or SDSS-V, besides ``spectra``.
    root
        Where the star files of ``summary`` lie; the data root unless given.
    kind
        ``coadd``, ``visit`` or ``both``. Without it both, and of a summary what it lists.
    lane
        ``live`` goes before ``bulk`` at every stage.
    tag
        A name for this set of results; another one computes anew.
    missing
        Spectra that ``summary`` or the catalogue names, but whose file is not there, end as
        rows that say so (``record``), or are left out (``skip``).
    settings
        Those of the environment unless given.
    bar
        Shows progress.

    Raises
    ------
    UsageError
        Something given cannot be used, or the stack that runs serves other weights.
    FatalError
        The weights or the database cannot be opened.
    TransientError
        The database is away. What was registered before stays.
    """
    settings = settings or get_settings()
    weights = weights_sha256(settings.weights_file)
    if settings.model is None:  # named weights may be meant for a stack that is started later
        check_stack(settings, weights)
    sources = _Sources.of(spectra, summary, root, settings.data_root, kind)
    tally = _Tally(missing)
    with opened(settings.database_url) as database:
        for part in register_all(
            database,
            tally.counted(sources.entries(database, bar)),
            weights=weights,
            weights_name=weights_name(settings.weights_file, weights),
            tag=tag,
            lane=lane,
        ):
            tally.add(part)
    return tally.enqueued()


@dataclass(frozen=True)
class _Sources:
    """What was given, looked at before the database is opened, so that mistakes show at once."""

    files: list[Path]
    names: list[str | int]
    table: SummaryTable | None
    data_root: Path
    kind: Wanted | None

    @classmethod
    def of(
        cls,
        spectra: Iterable[Name],
        summary: Path | None,
        root: Path | None,
        data_root: Path,
        kind: Wanted | None,
    ) -> _Sources:
        given = list(spectra)
        paths = [each for each in given if isinstance(each, Path)]
        table = None if summary is None else SummaryTable(summary, root or data_root, data_root)
        if table is not None:
            table.check(kind)
        return cls(
            files=find_files(paths, data_root) if paths else [],
            names=[each for each in given if not isinstance(each, Path)],
            table=table,
            data_root=data_root,
            kind=kind,
        )

    def entries(self, database: Engine, bar: Bar) -> Iterator[CatalogueEntry]:
        """All spectra, as they are found; those of a file stand together."""
        named, wanted = look_up(database, self.names, self.data_root), self.kind or "both"
        files = self.files + (find_files(named.paths, self.data_root) if named.paths else [])
        with bar("Reading headers", len(files)) as finished:
            for file in files:
                yield from spectra_of(file, self.data_root, wanted)
                finished(1)
        yield from catalogued(database, named.spectra, self.data_root, wanted)
        if self.table is not None:
            with bar("Reading the table", len(self.table)) as finished:
                yield from self.table.entries(self.kind, finished)


class _Tally:
    """Counts spectra, files and jobs while they pass by."""

    def __init__(self, missing: Missing) -> None:
        self._skip = missing == "skip"
        self._files = 0
        self._missing = 0
        self._first_missing: list[str] = []
        self._jobs = self._open = self._waiting = 0

    def counted(self, entries: Iterable[CatalogueEntry]) -> Iterator[CatalogueEntry]:
        """Pass entries on and count them; those whose file is not there may be left out."""
        for path, spectra in groupby(entries, key=lambda entry: entry.path):
            members = list(spectra)
            absent = members[0].file_version == ABSENT
            if absent:
                self._missing += 1
                self._first_missing += [path] if len(self._first_missing) < _NAMED else []
            if not (absent and self._skip):
                self._files += 1
                yield from members

    def add(self, part: Registered) -> None:
        """Count jobs that were registered."""
        self._jobs += len(part.jobs)
        self._open += len(part.open_jobs)
        self._waiting += len(part.waiting_jobs)

    def enqueued(self) -> Enqueued:
        """All that was counted."""
        return Enqueued(
            spectra=self._jobs,
            files=self._files,
            waiting=self._waiting,
            under_way=self._open - self._waiting,
            done=self._jobs - self._open,
            missing=self._missing,
            first_missing=tuple(self._first_missing),
        )
