"""Statements that must not become slower as jobs are done, on PostgreSQL, which may choose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update

from producer.ledger.register import register_all
from producer.ledger.release import release
from tests.integration.test_database import entries
from worker.database.session import opened, transaction
from worker.database.tables import Job, JobState
from worker.settings import Settings

SPECTRA = 4000


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """Nearly all jobs are done, but were waiting when the planner last counted them."""
    with opened(postgres_url) as engine:
        options = {"weights": "w" * 64, "weights_name": "own.pt", "tag": "", "lane": "bulk"}
        for _ in register_all(engine, entries(SPECTRA), **options):  # type: ignore[arg-type]
            pass
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE job"))
        with transaction(engine) as session:
            keys = session.scalars(select(Job.pk).order_by(Job.pk).limit(SPECTRA - 10))
            session.execute(update(Job).where(Job.pk.in_(keys.all())).values(state=JobState.DONE))
        yield engine


def test_what_waits_is_found_without_passing_what_is_done(engine: Engine, tmp_path: Path) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "LIMIT" in statement:
            statements.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    settings = Settings(data_root=tmp_path)
    assert release(engine, lambda _: None, settings, "redis", weights="w" * 64) == 10
    event.remove(engine, "before_cursor_execute", note)
    assert statements
    for statement, values in statements:
        with engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", values)
            assert "using ix_job_queue" in "\n".join(line for (line,) in plan)
