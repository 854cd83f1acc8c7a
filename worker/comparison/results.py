"""Results as ``run`` and ``export`` write them, read from tables to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import UsageError
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES
from worker.results.snr import known_snr
from worker.tables.results_file import integers, label_columns, results_file, texts, values
from worker.tables.where import rows_where

#: What says which spectrum a row is of; one is enough.
_NAMES = ("path", "obj")


@dataclass(frozen=True)
class Results:
    """Rows of results, all of the same length.

    Attributes
    ----------
    labels, e_labels, raw_labels, raw_e_labels
        ``(n, 22)``; NaN where a table has none.
    snr
        ``(n,)``; NaN where not known.
    paths, stars, members, kinds, weights
        Which spectrum it is, and the name of the weights; empty where a table does not say.
    flags
        ``(n,)`` bits of ``result_flags``.
    """

    labels: Floats
    e_labels: Floats
    raw_labels: Floats
    raw_e_labels: Floats
    snr: Floats
    paths: NDArray[np.str_]
    stars: NDArray[np.str_]
    members: NDArray[np.str_]
    kinds: NDArray[np.str_]
    weights: NDArray[np.str_]
    flags: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.snr)

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> Self:
        """The rows of a table of results; columns that it lacks are empty."""
        size = len(next(iter(columns.values())))
        return cls(
            labels=label_columns(columns, "", size),
            e_labels=label_columns(columns, "e_", size),
            raw_labels=label_columns(columns, "raw_", size),
            raw_e_labels=label_columns(columns, "raw_e_", size),
            snr=known_snr(values(columns, "snr", size)),
            paths=texts(columns, "path", size),
            stars=texts(columns, "obj", size),
            members=texts(columns, "member", size),
            kinds=texts(columns, "kind", size),
            weights=texts(columns, "weights_name", size),
            flags=integers(columns, "result_flags", size, missing=0),
        )

    def only(self, rows: NDArray[Any]) -> Self:
        """Some of the rows, by a mask or by their positions."""
        return replace(self, **{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    @classmethod
    def stacked(cls, parts: Sequence[Results]) -> Results:
        """The rows of several tables, one after the other."""
        columns = {
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(cls)
        }
        return cls(**columns)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which rows have labels."""
        has_result = (self.flags & ResultFlag.NO_RESULT.value) == 0
        return np.asarray(has_result & np.isfinite(self.labels).any(axis=1))

    @property
    def names(self) -> list[str]:
        """The star of each row, or its file where that is all there is."""
        names: list[str] = np.where(self.stars == "", self.paths, self.stars).tolist()
        return names

    @property
    def made_by(self) -> Counter[str]:
        """How many rows each weights made, by their names."""
        return Counter(name or "weights without a name" for name in self.weights.tolist())


def read_results(paths: Sequence[Path], kind: str | None, where: str | None, raw: bool) -> Results:
    """The rows of some tables of results, of one kind if it is given, that fit a condition.

    Parameters
    ----------
    where
        See :func:`worker.results.where.condition`; it is asked of each table.
    raw
        Whether labels and uncertainties as the network gave them are needed, too.

    Raises
    ------
    UsageError
        A table cannot be read, lacks a column, or the condition is none; or no row is left.
    """
    results = Results.stacked([_read(path, where, raw) for path in paths])
    if kind is not None:
        results = results.only((results.kinds == kind) | (results.kinds == ""))
    if not len(results):
        raise UsageError("No row of the results is chosen; there is nothing to compare.")
    return results


def _read(path: Path, where: str | None, raw: bool) -> Results:
    with results_file(path, [_NAMES]) as columns:
        for prefix in ("", "raw_", "raw_e_") if raw else ("",):
            if not columns.keys() & {prefix + name for name in LABEL_NAMES}:
                raise UsageError(
                    f"The results table {path.name} has no label, such as "
                    f"{prefix}{LABEL_NAMES[0]}; give it as `astronn-stream export` writes it."
                )
        results = Results.of_columns(columns)
        return results if where is None else results.only(rows_where(columns, where, path.name))
