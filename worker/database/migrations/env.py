"""Alembic's environment: runs migrations on the connection that ``upgrade`` hands over."""

from __future__ import annotations

from alembic import context

from worker.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes tables by copying them
)
with context.begin_transaction():
    context.run_migrations()
