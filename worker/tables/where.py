"""Conditions on the rows of a table in a file: those that choose rows of the database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    create_engine,
    insert,
    select,
)
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from worker.database.tables import UtcDateTime
from worker.errors import UsageError
from worker.results.where import condition
from worker.tables.results_file import texts, values


def rows_where(columns: Mapping[str, Any], text: str, file: str) -> NDArray[np.bool_]:
    """Which rows of a table of results fit a condition.

    A small database in memory answers, so that it means what it means for ``export``.

    Parameters
    ----------
    columns
        As :func:`worker.tables.results_file.results_file` gives them.
    text
        See :func:`worker.results.where.condition`.
    file
        What errors call the table.

    Raises
    ------
    UsageError
        It is no condition, or asks for a column that the table lacks.
    """
    meant = and_(condition(text))  # a flag alone is an attribute of a class, and no expression yet
    asked = {each.name: each for each in iterate(meant) if isinstance(each, Column)}
    if lacking := sorted(asked.keys() - columns.keys()):
        raise UsageError(f"--where: the results table {file} has no {', '.join(lacking)}.")
    size = len(next(iter(columns.values())))
    table = Table(
        "results",
        MetaData(),
        Column("row", Integer, primary_key=True),
        *(Column(name, each.type) for name, each in asked.items()),
    )
    held = {name: _plain(columns, each, size) for name, each in asked.items()}
    fits = np.zeros(size, dtype=np.bool_)
    fits[_matching(table, held, _of_table(meant, table), size)] = True
    return fits


def _of_table(meant: ColumnElement[bool], table: Table) -> ColumnElement[bool]:
    """The condition with a table's columns in place of the database's."""

    def replaced(element: Any, **_: Any) -> Any:
        return table.c[element.name] if isinstance(element, Column) else None

    moved: ColumnElement[bool] = replacement_traverse(meant, {}, replaced)
    return moved


def _matching(
    table: Table, held: Mapping[str, list[Any]], meant: ColumnElement[bool], size: int
) -> list[int]:
    rows = [
        dict(zip(("row", *held), row, strict=True))
        for row in zip(range(size), *held.values(), strict=True)
    ]
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            table.create(connection)
            if rows:
                connection.execute(insert(table), rows)
            return list(connection.scalars(select(table.c.row).where(meant)))
    finally:
        engine.dispose()


def _plain(columns: Mapping[str, Any], column: Column[Any], size: int) -> list[Any]:
    """Values as the database holds them: None for what is missing."""
    if isinstance(column.type, Text | UtcDateTime):
        told = texts(columns, column.name, size).tolist()
        if isinstance(column.type, Text):
            return [each or None for each in told]
        return [datetime.fromisoformat(each) if each else None for each in told]
    whole = isinstance(column.type, Integer)
    return [
        None if np.isnan(value) else int(value) if whole else value
        for value in values(columns, column.name, size).tolist()
    ]
