"""How unlike the training spectra a spectrum is.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of rows that are there already it is not known."""
    op.add_column("astronn", sa.Column("p_training", sa.Double()))


def downgrade() -> None:
    """Drop the column, and the flag that is made of it."""
    op.execute(
        "UPDATE astronn SET result_flags = result_flags - 65536 WHERE (result_flags & 65536) <> 0"
    )
    op.drop_column("astronn", "p_training")
