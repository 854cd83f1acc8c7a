"""Alembic's environment: runs migrations on the connection that ``upgrade`` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import func, select

from worker.database.tables import Base

#: The number of PostgreSQL's advisory lock for changing tables; any that nothing else uses.
_TURN = 0x6173_7472_6F4E_4F

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes tables by copying them
)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":  # the second process finds all of it done
        connection.execute(select(func.pg_advisory_xact_lock(_TURN)))
    context.run_migrations()
