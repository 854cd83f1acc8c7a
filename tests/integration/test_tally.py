"""The tally of jobs, which triggers keep, is what counting them gives."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Engine, delete, func, insert, select, update

import worker.database.tally as tally
from tests.integration.test_database import migrate, registered
from worker.database.session import opened, transaction
from worker.database.tables import Job, JobState, Tally

KEYS = (Job.state, Job.lane, Job.weights_sha256)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    with opened(database_url) as engine:
        yield engine


def assert_true(engine: Engine) -> None:
    with engine.connect() as connection:
        counted = connection.execute(select(*KEYS, func.count()).group_by(*KEYS))
        expected = {tuple(row[:3]): row[3] for row in counted}
        found = {
            (each.state, each.lane, each.weights_sha256): each.number
            for each in tally.read_tally(connection)
        }
    assert {key: number for key, number in found.items() if number} == expected


def disturb(engine: Engine, chance: random.Random, jobs: list[int]) -> None:
    """Change some jobs in one of the ways in which jobs change."""
    some = chance.sample(jobs, chance.randint(1, len(jobs)))
    value = {
        "state": chance.choice(list(JobState)),
        "lane": chance.choice(["live", "bulk"]),
        "weights_sha256": chance.choice(["w", "v"]),
        "attempts": chance.randint(0, 9),
    }
    name = chance.choice(list(value))
    with transaction(engine) as session:
        if chance.random() < 0.5:  # one statement for all of them
            changed = update(Job).where(Job.pk.in_(some)).values({name: value[name]})
            session.execute(changed.execution_options(synchronize_session=False))
        else:  # one for each
            for job in session.scalars(select(Job).where(Job.pk.in_(some))):
                setattr(job, name, value[name])


def test_the_tally_follows_whatever_happens_to_jobs(engine: Engine) -> None:
    chance = random.Random(7)  # noqa: S311 - no secret
    jobs = registered(engine, 40).jobs
    assert_true(engine)
    for _ in range(30):
        disturb(engine, chance, jobs)
        assert_true(engine)
    registered(engine, 40, version="2-2")  # opened again, by an upsert
    registered(engine, 50)
    assert_true(engine)
    with transaction(engine) as session:
        session.execute(delete(Job).where(Job.pk.in_(jobs[:7])))
    assert_true(engine)


def test_what_is_rolled_back_was_never_counted(engine: Engine) -> None:
    registered(engine, 3)

    def fail() -> None:
        with transaction(engine) as session:
            session.execute(update(Job).values(state=JobState.DONE))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_true(engine)


def test_jobs_that_were_there_before_the_tally_are_counted(engine: Engine) -> None:
    jobs = registered(engine, 5).jobs
    migrate(engine, command.downgrade, "0003")
    with engine.execution_options(writes=True).begin() as connection:
        connection.execute(update(Job).where(Job.pk.in_(jobs[:2])).values(state=JobState.DONE))
    migrate(engine, command.upgrade, "head")
    assert_true(engine)


def test_a_shortened_tally_says_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_MOST_ROWS", 10)
    chance = random.Random(8)  # noqa: S311 - no secret
    jobs = registered(engine, 40).jobs
    for _ in range(30):
        disturb(engine, chance, jobs)
    tally.shorten_tally(engine)
    with engine.connect() as connection:
        assert (connection.scalar(select(func.count()).select_from(Tally)) or 0) <= 3 * 2 * 2
    assert_true(engine)


def test_two_who_shorten_the_tally_at_once_lose_nothing(postgres_url: str) -> None:
    with opened(postgres_url) as engine:
        registered(engine, 3)
        statement = tally.shortening()
        with transaction(engine) as first:
            first.execute(insert(Tally).values(state="x", lane="y", weights_sha256="z", number=2))
        with engine.connect() as one, engine.connect() as other:
            one.execute(statement)
            other.exec_driver_sql("SET lock_timeout = '50ms'")
            with pytest.raises(Exception, match="lock timeout"):
                other.execute(statement)
            other.rollback()
            registered(engine, 6)  # nobody who changes jobs waits for it
            one.commit()
            other.execute(statement)
            other.commit()
        with transaction(engine) as last:
            last.execute(delete(Tally).where(Tally.state == "x"))
        assert_true(engine)


def test_registering_writes_the_tally_once_for_all(postgres_url: str) -> None:
    """A row for each job would make a look at a million that wait slow."""
    with opened(postgres_url) as engine:
        registered(engine, 300)
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(Tally)) == 1
