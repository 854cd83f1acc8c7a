"""Who wants the same rows of PostgreSQL at the same time waits for the other, and nobody fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, insert, make_url, select, text, update

from benchmarks.rig.waiting import wait_for
from producer.ledger.register import Registered, register
from producer.ledger.requeue import Selection, requeue
from producer.sources.files import CatalogueEntry
from tests.integration.test_database import count, entries, migrate, registered
from tests.integration.test_tally import assert_true
from worker.database.session import opened, transaction, upgrade
from worker.database.tables import AstroNN, Job, JobState, Spectrum, now
from worker.queues import Lane


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    with opened(postgres_url) as engine:
        yield engine


@pytest.fixture
def beside() -> Iterator[Callable[..., Future[None]]]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def wait_for_someone_who_waits(engine: Engine) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_for(lambda: connection.scalar(waiting), "someone who waits for a lock")


def enter(engine: Engine, found: list[CatalogueEntry], lane: Lane = "bulk") -> Registered:
    with transaction(engine) as session:
        return register(session, found, weights="w", weights_name="own.pt", tag="", lane=lane)


def test_two_who_register_the_same_files_do_not_lock_each_other_out(
    engine: Engine, beside: Callable[..., Future[None]]
) -> None:
    together = threading.Barrier(2)

    def enter_together(found: list[CatalogueEntry]) -> None:
        together.wait()
        enter(engine, found)

    for first in (1, 2):  # all of it is new, and all of it is rewritten
        there = entries(300, f"{first}-1")
        both = [beside(enter_together, each) for each in (there, there[::-1])]
        for each in both:
            each.result()
    assert count(engine, Spectrum) == count(engine, Job) == 300
    assert_true(engine)


def rewrite(engine: Engine) -> None:
    """One is rewritten, and both are wanted sooner."""
    one, other = entries(2)
    enter(engine, [replace(one, file_version="2-2"), other], lane="live")


def ask_for_again(engine: Engine) -> None:
    with engine.connect() as connection:
        spectra = connection.scalars(select(Spectrum.pk)).all()
    requeue(engine, Selection(spectra=spectra))


@pytest.mark.parametrize("open_again", [rewrite, ask_for_again])
def test_who_opens_jobs_again_waits_for_who_records_them(
    engine: Engine, beside: Callable[..., Future[None]], open_again: Callable[[Engine], None]
) -> None:
    """It may find jobs in any order; the recorder locks them in that of their keys."""
    registered(engine, 2, tag="other")
    first, last = (  # neither as their spectra stand
        job for entry in reversed(entries(2)) for job in enter(engine, [entry]).jobs
    )
    with transaction(engine) as session:  # nor as they lie in the table
        session.execute(update(Job).where(Job.pk == first).values(attempts=1))
    with transaction(engine) as session:
        lock = select(Job.pk).with_for_update()
        session.execute(lock.where(Job.pk == first))
        opened_again = beside(open_again, engine)
        wait_for_someone_who_waits(engine)
        session.execute(lock.where(Job.pk == last))
    opened_again.result()


def test_tables_are_changed_beside_a_recorder(
    engine: Engine, beside: Callable[..., Future[None]]
) -> None:
    (job,) = registered(engine, 1).jobs
    migrate(engine, command.downgrade, "0003")
    row = {
        "task_pk": job,
        "spectrum_pk": select(Job.spectrum_pk).where(Job.pk == job).scalar_subquery(),
        "weights_sha256": "w",
        "tag": "",
        "software_version": "1",
        "created": now(),
        "modified": now(),
        "result_flags": 0,
    }
    with transaction(engine) as session:  # as a recorder does it
        session.execute(select(Job).where(Job.pk == job).with_for_update())
        session.execute(insert(AstroNN).values(row))
        upgraded = beside(upgrade, engine)
        wait_for_someone_who_waits(engine)
        session.execute(update(Job).where(Job.pk == job).values(state=JobState.DONE))
    upgraded.result()
    assert_true(engine)


def test_who_finds_that_tables_are_being_made_waits_for_them(
    postgres_url: str, beside: Callable[..., Future[None]]
) -> None:
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:  # without the tables that the tests' databases come with
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))

    def change(config: Config, revision: str) -> None:
        nonlocal upgraded
        command.upgrade(config, revision)
        upgraded = beside(upgrade, engine)
        wait_for_someone_who_waits(engine)

    upgraded: Future[None] = Future()
    migrate(engine, change, "head")
    upgraded.result()
    assert registered(engine, 1).jobs
    engine.dispose()
