"""A tally of jobs, kept by triggers, and two indexes: `status` reads these instead of all jobs.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Each statement adds rows of its own: with a common row, each would wait for all others.
_POSTGRESQL_FUNCTION = """
CREATE FUNCTION tally_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tally (state, lane, weights_sha256, number)
        SELECT state, lane, weights_sha256, count(*) FROM new_jobs GROUP BY 1, 2, 3;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO tally (state, lane, weights_sha256, number)
        SELECT state, lane, weights_sha256, -count(*) FROM old_jobs GROUP BY 1, 2, 3;
    ELSE
        INSERT INTO tally (state, lane, weights_sha256, number)
        SELECT state, lane, weights_sha256, sum(one) FROM (
            SELECT state, lane, weights_sha256, 1 AS one FROM new_jobs
            UNION ALL
            SELECT state, lane, weights_sha256, -1 FROM old_jobs
        ) AS changes GROUP BY 1, 2, 3 HAVING sum(one) <> 0;
    END IF;
    RETURN NULL;
END $$
"""
_POSTGRESQL_TABLES = {
    "insert": "NEW TABLE AS new_jobs",
    "update": "OLD TABLE AS old_jobs NEW TABLE AS new_jobs",
    "delete": "OLD TABLE AS old_jobs",
}

# SQLite has one writer at a time, and triggers for rows alone.
_SQLITE_ADD = """
    INSERT INTO tally (state, lane, weights_sha256, number)
    SELECT NEW.state, NEW.lane, NEW.weights_sha256, 0 WHERE NOT EXISTS (
        SELECT 1 FROM tally WHERE state = NEW.state AND lane = NEW.lane
        AND weights_sha256 = NEW.weights_sha256
    );
    UPDATE tally SET number = number + 1 WHERE state = NEW.state AND lane = NEW.lane
    AND weights_sha256 = NEW.weights_sha256;
"""
_SQLITE_REMOVE = """
    UPDATE tally SET number = number - 1 WHERE state = OLD.state AND lane = OLD.lane
    AND weights_sha256 = OLD.weights_sha256;
"""
_SQLITE_TRIGGERS = {
    "insert": f"AFTER INSERT ON job BEGIN {_SQLITE_ADD} END",
    "update": "AFTER UPDATE OF state, lane, weights_sha256 ON job WHEN OLD.state <> NEW.state "
    "OR OLD.lane <> NEW.lane OR OLD.weights_sha256 <> NEW.weights_sha256 "
    f"BEGIN {_SQLITE_REMOVE} {_SQLITE_ADD} END",
    "delete": f"AFTER DELETE ON job BEGIN {_SQLITE_REMOVE} END",
}


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def upgrade() -> None:
    """Count the jobs that there are; triggers then keep the count."""
    op.create_table(
        "tally",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name="pk_tally"),
    )
    if _is_postgresql():
        # Recorders lock jobs before they write rows: the index on these shall not meet one midway.
        op.execute("LOCK TABLE job IN EXCLUSIVE MODE")
        op.execute(_POSTGRESQL_FUNCTION)
        for deed, tables in _POSTGRESQL_TABLES.items():
            op.execute(
                f"CREATE TRIGGER tally_{deed} AFTER {deed} ON job REFERENCING {tables} "
                "FOR EACH STATEMENT EXECUTE FUNCTION tally_jobs()"
            )
    else:
        for deed, trigger in _SQLITE_TRIGGERS.items():
            op.execute(f"CREATE TRIGGER tally_{deed} {trigger}")
    op.execute(
        "INSERT INTO tally (state, lane, weights_sha256, number) "
        "SELECT state, lane, weights_sha256, count(*) FROM job "
        "GROUP BY state, lane, weights_sha256"
    )
    for name, table, columns, condition in (
        ("ix_job_open", "job", ["lane", "updated_at"], "state <> 'done'"),
        ("ix_astronn_unlabelled", "astronn", ["modified"], "no_result_reason IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Stop counting."""
    op.drop_index("ix_astronn_unlabelled", "astronn")
    op.drop_index("ix_job_open", "job")
    on_job = " ON job" if _is_postgresql() else ""
    for deed in _SQLITE_TRIGGERS:
        op.execute(f"DROP TRIGGER tally_{deed}{on_job}")
    if _is_postgresql():
        op.execute("DROP FUNCTION tally_jobs()")
    op.drop_table("tally")
