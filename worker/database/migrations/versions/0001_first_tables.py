"""The catalogue, the ledger and the results.

Revision ID: 0001
Revises: None
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A migration is history: it says what the columns were called then, whatever
# ``worker.labels`` says today.
LABELS = """
    teff logg c_h c_1_h n_h o_h na_h mg_h al_h si_h p_h s_h k_h ca_h ti_h ti_2_h v_h cr_h mn_h fe_h
    co_h ni_h
"""


def _key() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _moment() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "source",
        sa.Column("pk", _key(), nullable=False),
        sa.Column("obj", sa.Text(), nullable=False),
        sa.Column("ra", sa.Double()),
        sa.Column("dec", sa.Double()),
        sa.PrimaryKeyConstraint("pk", name="pk_source"),
        sa.UniqueConstraint("obj", name="uq_source_obj"),
    )
    op.create_table(
        "spectrum",
        sa.Column("pk", _key(), nullable=False),
        sa.Column("source_pk", _key()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("natural_key", sa.Text(), nullable=False),
        sa.Column("file_version", sa.Text(), nullable=False),
        sa.Column("release", sa.Text()),
        sa.Column("apred", sa.Text()),
        sa.Column("telescope", sa.Text()),
        sa.Column("field", sa.Text()),
        sa.Column("healpix", sa.Integer()),
        sa.Column("obj", sa.Text()),
        sa.Column("starver", sa.Text()),
        sa.Column("plate", sa.Text()),
        sa.Column("mjd", sa.Integer()),
        sa.Column("fiber", sa.Integer()),
        sa.Column("n_visits", sa.Integer()),
        sa.Column("snr", sa.Double()),
        sa.Column("spectrum_flags", sa.BigInteger()),
        sa.Column("created", _moment(), nullable=False),
        sa.Column("modified", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name="pk_spectrum"),
        sa.ForeignKeyConstraint(["source_pk"], ["source.pk"], name="fk_spectrum_source_pk_source"),
        sa.UniqueConstraint("path", "member", name="uq_spectrum_path"),
    )
    op.create_index("ix_spectrum_natural_key", "spectrum", ["natural_key"])
    op.create_index("ix_spectrum_source_pk", "spectrum", ["source_pk"])
    op.create_table(
        "job",
        sa.Column("pk", _key(), nullable=False),
        sa.Column("spectrum_pk", _key(), nullable=False),
        sa.Column("weights_sha256", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("file_version", sa.Text(), nullable=False),
        sa.Column("enqueued_at", _moment()),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name="pk_job"),
        sa.ForeignKeyConstraint(
            ["spectrum_pk"], ["spectrum.pk"], name="fk_job_spectrum_pk_spectrum"
        ),
        sa.UniqueConstraint("spectrum_pk", "weights_sha256", "tag", name="uq_job_spectrum_pk"),
    )
    op.create_index("ix_job_state_lane_pk", "job", ["state", "lane", "pk"])
    op.create_table(
        "astronn",
        sa.Column("task_pk", _key(), autoincrement=False, nullable=False),
        sa.Column("spectrum_pk", _key(), nullable=False),
        sa.Column("source_pk", _key()),
        sa.Column("weights_sha256", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("software_version", sa.Text(), nullable=False),
        sa.Column("corrections_sha256", sa.Text()),
        sa.Column("mc_samples", sa.Integer()),
        sa.Column("seed", sa.BigInteger()),
        sa.Column("created", _moment(), nullable=False),
        sa.Column("modified", _moment(), nullable=False),
        sa.Column("t_elapsed", sa.Double()),
        sa.Column("t_overhead", sa.Double()),
        sa.Column("result_flags", sa.Integer(), nullable=False),
        sa.Column("no_result_reason", sa.Text()),
        *(
            sa.Column(prefix + label, sa.Double())
            for prefix in ("", "e_", "raw_", "raw_e_")
            for label in LABELS.split()
        ),
        sa.PrimaryKeyConstraint("task_pk", name="pk_astronn"),
        sa.ForeignKeyConstraint(["task_pk"], ["job.pk"], name="fk_astronn_task_pk_job"),
        sa.ForeignKeyConstraint(
            ["spectrum_pk"], ["spectrum.pk"], name="fk_astronn_spectrum_pk_spectrum"
        ),
        sa.ForeignKeyConstraint(["source_pk"], ["source.pk"], name="fk_astronn_source_pk_source"),
        sa.UniqueConstraint("spectrum_pk", "weights_sha256", "tag", name="uq_astronn_spectrum_pk"),
    )
    op.create_index("ix_astronn_result_flags", "astronn", ["result_flags"])
    op.create_index("ix_astronn_source_pk", "astronn", ["source_pk"])


def downgrade() -> None:
    """Drop the four tables with all that is in them."""
    for table in ("astronn", "job", "spectrum", "source"):
        op.drop_table(table)
