"""The row of one spectrum among results, to which a page of the spectrum is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, and_

from worker.database.tables import Spectrum
from worker.labels import LABEL_NAMES
from worker.results.read import read_table
from worker.tables.results_file import results_file

_TEXTS = ("path", "member", "obj", "no_result_reason")
#: What a page and its heading tell of a row.
_NEEDED = (
    *("spectrum_pk", "snr", "result_flags", *_TEXTS),
    *(prefix + name for prefix in ("", "e_") for name in LABEL_NAMES),
)


@dataclass(frozen=True)
class Which:
    """Which spectrum is meant: by its key, or by its file below the data root and its member."""

    pk: int | None = None
    path: str = ""
    member: str = ""

    def __str__(self) -> str:
        return f"with spectrum_pk {self.pk}" if self.pk is not None else self.path


def row_in_database(database: Engine, which: Which, tag: str | None) -> Mapping[str, Any] | None:
    """The spectrum's result, the latest of several; None where there is none.

    Raises
    ------
    TransientError
        The database is away.
    """
    meant = (
        Spectrum.pk == which.pk
        if which.pk is not None
        else and_(Spectrum.path == which.path, Spectrum.member == which.member)
    )
    rows = read_table(database, tag=tag, where=meant)
    if not len(rows):
        return None
    latest = rows[int(np.argsort(rows["modified"])[-1])]
    return {name: latest[name] for name in rows.colnames}


def row_in_file(path: Path, which: Which) -> Mapping[str, Any] | None:
    """The first row of the spectrum in a table as ``export`` writes it; None where there is none.

    Raises
    ------
    UsageError
        The table cannot be read, or is none of results.
    """
    with results_file(path, _NEEDED) as columns:
        if which.pk is not None:
            meant = np.asarray(columns["spectrum_pk"]) == which.pk
        else:
            meant = np.asarray(columns["path"]).astype(str) == which.path
            meant &= np.asarray(columns["member"]).astype(str) == which.member
        found = np.flatnonzero(meant)
        if not len(found):
            return None
        return {name: _value(name, values[found[0]]) for name, values in columns.items()}


def _value(name: str, value: Any) -> Any:
    """A value of a table; what is masked there, as in a database: a text is empty, a number NaN."""
    if value is not np.ma.masked:
        return value
    return "" if name in _TEXTS else np.nan
