"""Which cards of a file's header could not be read.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of spectra that are there already it is not known."""
    op.add_column("spectrum", sa.Column("unread_cards", sa.Text()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("spectrum", "unread_cards")
