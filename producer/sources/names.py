"""Spectra by name: what a line of ``--ids`` or an argument of the Python interface may be.

A name is a file or folder, or what the table of results says of a spectrum: its
``spectrum_pk``, ``natural_key``, ``path`` or ``obj``, the last two for all spectra of a file or
a star.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select
from sqlalchemy.orm import InstrumentedAttribute

from producer.sources.files import CatalogueEntry, Wanted
from worker.database.session import reading
from worker.database.tables import Kind, Source, Spectrum
from worker.errors import UsageError
from worker.file_names import name_on_disk
from worker.spectra.versions import file_version

Name = str | int | Path

#: Names that one statement asks for.
_AT_ONCE = 1000
#: What a database takes as a key.
_TOO_LARGE, _LONGEST_KEY = 2**63, 19
_COLUMNS = [each.name for each in fields(CatalogueEntry) if each.name not in ("ra", "dec")]


@dataclass
class Named:
    """What names stand for: files and folders, and keys of spectra in the catalogue."""

    paths: list[Path] = field(default_factory=list)
    spectra: set[int] = field(default_factory=set)

    def add(
        self, connection: Connection, column: InstrumentedAttribute[Any], names: set[str]
    ) -> set[str]:
        """Add the spectra that have one of these names in a column; returns the names found."""
        values = {_value(column, name) for name in names} - {None}
        rows = connection.execute(
            select(Spectrum.pk, column)
            .outerjoin(Source, Source.pk == Spectrum.source_pk)
            .where(column.in_(values))
        ).all()
        self.spectra |= {pk for pk, _ in rows}
        return {str(value) for _, value in rows}


def look_up(database: Engine, names: Iterable[Name], data_root: Path) -> Named:
    """Find what names stand for.

    A relative path may start at the working directory or at the data root.

    Raises
    ------
    UsageError
        A name is no file and unknown to the catalogue.
    TransientError
        The database is away.
    """
    found, rest = Named(), iter(names)
    while part := list(islice(rest, _AT_ONCE)):
        places = {name: _place(name, data_root) for name in part}
        found.paths += filter(None, places.values())
        unknown = {str(name) for name, place in places.items() if place is None}
        with reading(database) as connection:
            for column in (Spectrum.pk, Spectrum.natural_key, Spectrum.path, Source.obj):
                unknown -= found.add(connection, column, unknown)
        if unknown:
            raise UsageError(
                f"{min(unknown)!r} is no file, and no spectrum_pk, natural_key, path or obj in "
                f"the database{_and_others(len(unknown) - 1)}."
            )
    return found


def catalogued(
    database: Engine, spectra: Iterable[int], data_root: Path, wanted: Wanted
) -> Iterator[CatalogueEntry]:
    """What the catalogue says of spectra, with the versions that their files have now."""
    root, rest = data_root.resolve(), iter(sorted(spectra))
    kinds = list(Kind) if wanted == "both" else [wanted]
    while part := list(islice(rest, _AT_ONCE)):
        statement = (
            select(Spectrum.__table__)
            .where(Spectrum.pk.in_(part), Spectrum.kind.in_(kinds))
            .order_by(Spectrum.path, Spectrum.pk)
        )
        with reading(database) as connection:
            rows = connection.execute(statement).mappings().all()
        for row in rows:
            known, file = {name: row[name] for name in _COLUMNS}, root / name_on_disk(row["path"])
            yield CatalogueEntry(**{**known, "file_version": file_version(file)})


def read_names(file: Path) -> list[str]:
    """The names in a file, one a line; ``-`` stands for the standard input.

    Raises
    ------
    UsageError
        The file cannot be read, or names nothing.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--ids {file} cannot be read: {error}.") from error
    names = [line.strip() for line in text.splitlines()]
    if not any(names):
        raise UsageError(f"--ids {file} names nothing.")
    return [name for name in names if name]


def _place(name: Name, data_root: Path) -> Path | None:
    """The file or folder of this name; a path stands for one even if nothing is there."""
    if isinstance(name, Path):
        return name
    if isinstance(name, int) or name.isdecimal() or not name.isprintable():
        return None
    return next((place for place in (Path(name), data_root / name) if _exists(place)), None)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # too long a name
        return False


def _value(column: InstrumentedAttribute[Any], name: str) -> str | int | None:
    """A name as a column may hold it; None where it cannot."""
    if column is not Spectrum.pk:
        return name if name.isprintable() else None
    is_key = name.isdecimal() and len(name) <= _LONGEST_KEY and int(name) < _TOO_LARGE
    return int(name) if is_key else None


def _and_others(count: int) -> str:
    if count == 0:
        return ""
    return f"; nor {'is one other name' if count == 1 else f'are {count} other names'}"
