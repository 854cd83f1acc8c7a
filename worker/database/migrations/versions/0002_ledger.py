"""What the ledger needs to find lost jobs: a deadline, the broker, and the last error.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; jobs that are queued now count as past their deadline, once more."""
    op.execute("UPDATE job SET attempts = 0 WHERE state = 'queued'")
    op.add_column("job", sa.Column("deadline", sa.DateTime(timezone=True)))
    op.add_column("job", sa.Column("broker", sa.Text()))
    op.add_column("job", sa.Column("last_error", sa.Text()))
    op.create_index("ix_job_queue", "job", ["state", "lane", "weights_sha256", "pk"])
    op.drop_index("ix_job_state_lane_pk", "job")


def downgrade() -> None:
    """Drop the columns."""
    op.create_index("ix_job_state_lane_pk", "job", ["state", "lane", "pk"])
    op.drop_index("ix_job_queue", "job")
    for column in ("last_error", "broker", "deadline"):
        op.drop_column("job", column)
