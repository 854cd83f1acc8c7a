"""What pictures are drawn from: some columns of many results, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Engine

from worker.array_types import Singles
from worker.flags import ResultFlag
from worker.identity import COADD
from worker.labels import LABEL_NAMES
from worker.results.read import RowSelection, read_batches, table_schema
from worker.results.snr import known_snr
from worker.tables.columns_of_file import numbers
from worker.tables.results_file import results_file
from worker.which_labels import known_labels, names_of

_ONCE = ("kind", "snr", "result_flags", "source_pk", "mjd", "fiber")
#: The columns that pictures are drawn from.
COLUMNS = (*_ONCE, *(prefix + name for prefix in ("", "e_") for name in LABEL_NAMES))
_NOT_KNOWN = -1

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Results, with labels and without.

    Attributes
    ----------
    coadds
        ``(n,)``: which are coadds; the others are visits.
    snr
        ``(n,)`` S/N per pixel; NaN where not known.
    flags
        ``(n,)`` bits of :class:`worker.flags.ResultFlag`.
    star, mjd, fiber
        ``(n,)``: what tells observations apart; -1 where not known.
    labels, errors
        ``(n, 22)`` labels and their uncertainties; NaN where there are none, and for labels that
        the weights have not learnt.
    """

    coadds: NDArray[np.bool_]
    snr: Singles
    flags: Integers
    star: Integers
    mjd: Integers
    fiber: Integers
    labels: Singles
    errors: Singles

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Sample:
        """Take them from the columns of a table, which has all of :data:`COLUMNS`."""

        def floats(name: str) -> Singles:
            values = numbers(columns, [name])
            assert values is not None  # noqa: S101 - all columns are there
            return values.astype(np.float32)

        def integers(name: str) -> Integers:
            values = numbers(columns, [name])
            assert values is not None  # noqa: S101
            return np.nan_to_num(values, nan=_NOT_KNOWN).astype(np.int64)

        return cls(
            coadds=np.asarray(columns["kind"]).astype(str) == COADD,
            snr=known_snr(floats("snr")),
            flags=integers("result_flags"),
            star=integers("source_pk"),
            mjd=integers("mjd"),
            fiber=integers("fiber"),
            labels=np.column_stack([floats(name) for name in LABEL_NAMES]),
            errors=np.column_stack([floats(f"e_{name}") for name in LABEL_NAMES]),
        )

    @classmethod
    def of_database(cls, database: Engine, wanted: RowSelection) -> Sample:
        """Read them from the database, these columns alone.

        Raises
        ------
        TransientError
            The database is away.
        """
        rows = pa.Table.from_batches(
            read_batches(database, wanted, COLUMNS), schema=table_schema(COLUMNS)
        )
        return cls.of({name: rows[name].to_numpy() for name in rows.column_names})

    @classmethod
    def of_file(cls, path: Path) -> Sample:
        """Read them from a table as ``export`` writes it.

        Raises
        ------
        UsageError
            The table cannot be read, or lacks a column.
        """
        with results_file(path, COLUMNS) as columns:
            return cls.of(columns)

    def __len__(self) -> int:
        return len(self.flags)

    def only(self, rows: NDArray[np.bool_]) -> Sample:
        """Some of the results."""
        return Sample(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which have labels, be it some of them."""
        has = (self.flags & ResultFlag.NO_RESULT.value) == 0
        return np.asarray(has & np.isfinite(self.labels).any(axis=1))

    def having(self, *names: str) -> Sample:
        """The results that have these labels."""
        places = [LABEL_NAMES.index(name) for name in names]
        return self.only(np.asarray(np.isfinite(self.labels[:, places]).all(axis=1)))

    @property
    def known(self) -> tuple[str, ...]:
        """The labels that any of the results has."""
        return names_of(known_labels(self.labels))

    def label(self, name: str) -> tuple[Singles, Singles]:
        """One label and its uncertainty, each ``(n,)``."""
        position = LABEL_NAMES.index(name)
        return self.labels[:, position], self.errors[:, position]
