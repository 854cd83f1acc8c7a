"""The name of the weights beside their SHA-256, which says of the starter weights what they are.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; rows that are there already have no name."""
    for table in ("job", "astronn"):
        op.add_column(table, sa.Column("weights_name", sa.Text()))


def downgrade() -> None:
    """Drop the columns."""
    for table in ("astronn", "job"):
        op.drop_column(table, "weights_name")
