"""The tally of jobs: read instead of counting them, and kept short."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Insert, delete, func, insert, select

from worker.database.session import reading, transaction
from worker.database.tables import Tally

#: So many rows are summed in a millisecond.
_MOST_ROWS = 1000
_KEYS = (Tally.state, Tally.lane, Tally.weights_sha256)


@dataclass(frozen=True)
class Count:
    """So many jobs of this state, lane and weights."""

    state: str
    lane: str
    weights_sha256: str
    number: int


def read_tally(connection: Connection) -> list[Count]:
    """How many jobs there are, in a time that does not depend on it."""
    rows = connection.execute(select(*_KEYS, func.sum(Tally.number)).group_by(*_KEYS))
    return [Count(state, lane, weights, int(number)) for state, lane, weights, number in rows]


def shorten_tally(database: Engine) -> None:
    """Sum up rows where there are many: on PostgreSQL each statement on jobs adds its own.

    On SQLite the triggers themselves keep one row for each count.

    Raises
    ------
    TransientError
        The database is away.
    """
    if database.dialect.name == "sqlite":
        return
    with reading(database) as connection:
        if (connection.scalar(select(func.count()).select_from(Tally)) or 0) <= _MOST_ROWS:
            return
    with transaction(database) as session:
        session.execute(shortening())


def shortening() -> Insert:
    """The statement that puts sums in the place of all rows.

    Rows that are added meanwhile are not seen and stay. Where two processes do this, the second
    one waits, and then finds nothing to do.
    """
    gone = delete(Tally).returning(*_KEYS, Tally.number).cte("gone")
    keys = (gone.c.state, gone.c.lane, gone.c.weights_sha256)
    sums = select(*keys, func.sum(gone.c.number)).group_by(*keys)
    return insert(Tally).from_select([*_KEYS, Tally.number], sums)
