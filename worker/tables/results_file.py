"""A table of results in a file, as ``export`` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.errors import UsageError
from worker.tables.columns_of_file import read_columns

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
