"""Insert or update, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from worker.database.tables import Base

#: SQLite takes 32,766 parameters a statement; a result row has about a hundred.
_PARAMETERS_AT_ONCE = 30_000

#: The two dialects' INSERT have the same methods, but no common type.
_INSERTS: dict[str, Callable[[type[Base]], Any]] = {
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
    insert = _INSERTS[session.get_bind().dialect.name]
    at_once = max(1, _PARAMETERS_AT_ONCE // len(rows[0]))
    changing = [name for name in rows[0] if name not in {*key, *keep}]
    for first in range(0, len(rows), at_once):
        statement = insert(model).values([dict(row) for row in rows[first : first + at_once]])
        if changing:
            updates = {name: statement.excluded[name] for name in changing}
            session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=updates))
        else:
            session.execute(statement.on_conflict_do_nothing(index_elements=list(key)))
