"""A table of results in a file, as ``export`` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import UsageError
from worker.labels import LABEL_NAMES
from worker.tables.columns_of_file import numbers, read_columns

_MOST_NAMED = 3


@contextmanager
def results_file(path: Path, needed: Sequence[str | Sequence[str]]) -> Iterator[Mapping[str, Any]]:
    """The columns of a table, to be used within the context.

    Parameters
    ----------
    needed
        The columns that there have to be; of a sequence of names one is enough.

    Raises
    ------
    UsageError
        The table cannot be read, lacks a column, or has one that the context cannot use: what it
        raises as ``TypeError`` or ``ValueError``.
    """
    columns = read_columns(path, "results table")
    choices = [[each] if isinstance(each, str) else each for each in needed]
    lacking = [" or ".join(names) for names in choices if not columns.keys() & set(names)]
    if lacking:
        more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
        raise UsageError(
            f"The results table {path.name} has no {', '.join(lacking[:_MOST_NAMED])}{more}; give "
            "it as `astronn-stream export` writes it."
        )
    try:
        yield columns
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The results table {path.name} has a column that cannot be used: {error}."
        ) from error


def texts(columns: Mapping[str, Any], name: str, size: int, default: str = "") -> NDArray[np.str_]:
    """A column of texts, empty where they are missing; ``default`` without such a column."""
    if name not in columns or not size:
        return np.full(size, default)
    return np.array(
        ["" if each is np.ma.masked or each is None else str(each) for each in columns[name]]
    )


def values(columns: Mapping[str, Any], name: str, size: int) -> Floats:
    """A column of numbers, NaN where they are missing."""
    found = numbers(columns, [name])
    return np.full(size, np.nan) if found is None else found


def integers(
    columns: Mapping[str, Any], name: str, size: int, missing: int = -1
) -> NDArray[np.int64]:
    """A column of integers, ``missing`` where there is none."""
    return np.nan_to_num(values(columns, name, size), nan=missing).astype(np.int64)


def label_columns(columns: Mapping[str, Any], prefix: str, size: int) -> Floats:
    """``(n, 22)``: the columns of all labels with a prefix, NaN where they are missing."""
    return np.stack([values(columns, prefix + name, size) for name in LABEL_NAMES], axis=1)
