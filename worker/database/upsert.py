"""Insert or update, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from worker.database.tables import Base

#: The two dialects' INSERT have the same methods, but no common type.
_INSERTS: dict[str, Callable[..., Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def upsert(
    session: Session,
    model: type[Base],
    rows: Sequence[Mapping[str, Any]],
    *,
    key: Collection[str],
    keep: Collection[str] = (),
) -> None:
    """Insert rows; where one with the same key exists, update it.

    Parameters
    ----------
    rows
        Column names to values; all rows have the same columns.
    key
        The columns of the unique constraint that tells rows apart.
    keep
        Columns that an existing row keeps. When these and the key are all there is, an
        existing row is left alone.
    """
    if not rows:
        return
    changing = [name for name in rows[0] if name not in {*key, *keep}]
    statement = _statement(session.get_bind().dialect.name, model, tuple(key), tuple(changing))
    session.connection().execute(statement, [dict(row) for row in rows])


def insert_missing(
    session: Session, model: type[Base], values: Select[*tuple[Any, ...]], *, key: Collection[str]
) -> None:
    """Insert what is selected, in one statement; rows whose key exists are left alone.

    Parameters
    ----------
    values
        Its columns have the names of the table's.
    """
    insert = _INSERTS[session.get_bind().dialect.name](model.__table__)
    names = [column.name for column in values.selected_columns]
    session.execute(insert.from_select(names, values).on_conflict_do_nothing(index_elements=key))


@lru_cache
def _statement(
    dialect: str, model: type[Base], key: tuple[str, ...], changing: tuple[str, ...]
) -> Any:
    """The statement for one row.

    It is made and compiled once in a process's life. One that held all rows would be compiled
    anew for each message, which took ten times as long as all the rest of recording it.
    """
    statement = _INSERTS[dialect](model.__table__)
    if not changing:
        return statement.on_conflict_do_nothing(index_elements=key)
    updates = {name: statement.excluded[name] for name in changing}
    return statement.on_conflict_do_update(index_elements=key, set_=updates)
