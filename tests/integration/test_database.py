from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select
from sqlalchemy.exc import IntegrityError

from producer.ledger.register import Registered, register
from producer.sources.files import CatalogueEntry
from worker.database import session as database_session
from worker.database.session import downgrade, opened, transaction, upgrade
from worker.database.tables import AstroNN, Base, Job, JobState, Kind, Source, Spectrum
from worker.errors import FatalError, TransientError
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES
from worker.messages import Failure, RecordLabels, Setback, SpectrumLabels
from worker.results.noise_model import NoiseModel, identity
from worker.results.record import note_setbacks, record_failures, record_labels, strangers

N_LABELS = len(LABEL_NAMES)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    with opened(database_url) as engine:
        yield engine


def entries(number: int, version: str = "1-1") -> list[CatalogueEntry]:
    return [
        CatalogueEntry(
            kind=Kind.COADD,
            path=f"folder/apStar-r6-star{n}.fits",
            member="coadd",
            natural_key=f"apStar-r6-star{n}/coadd",
            file_version=version,
            obj=f"star{n}",
        )
        for n in range(number)
    ]


def registered(engine: Engine, number: int, *, tag: str = "", version: str = "1-1") -> Registered:
    with transaction(engine) as session:
        return register(
            session,
            entries(number, version),
            weights="w",
            weights_name="own.pt",
            tag=tag,
            lane="bulk",
        )


def labels_of(
    engine: Engine, jobs: list[int], value: float = 1.0, version: str = "1-1"
) -> RecordLabels:
    known = natural_keys(engine)
    results = tuple(
        SpectrumLabels(
            job=job,
            spectrum=job,
            file_version=version,
            natural_key=known.get(job, "nobody's"),
            raw_labels=tuple(value + job + n for n in range(N_LABELS)),
            raw_e_labels=tuple(0.01 * (n + 1) for n in range(N_LABELS)),
            p_training=None,
            t_elapsed=0.5,
            t_overhead=0.1,
        )
        for job in jobs
    )
    return RecordLabels(software="1", weights="w", mc_samples=100, seed=0, results=results)


def natural_keys(engine: Engine) -> dict[int, str]:
    """Whose a job is."""
    statement = select(Job.pk, Spectrum.natural_key).join(Spectrum, Spectrum.pk == Job.spectrum_pk)
    with engine.connect() as connection:
        return {row.pk: row.natural_key for row in connection.execute(statement)}


def failure(engine: Engine, job: int, reason: str) -> Failure:
    return Failure(
        job=job,
        spectrum=1,
        file_version="1-1",
        natural_key=natural_keys(engine)[job],
        reason=reason,
    )


def count(engine: Engine, model: type[Base]) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(model)) or 0


def test_migrations_make_exactly_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    registered(engine, 1)
    upgrade(engine)
    assert count(engine, Spectrum) == 1


def test_a_database_of_a_newer_version_is_refused(engine: Engine) -> None:
    with engine.execution_options(writes=True).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FatalError, match="newer"):
        upgrade(engine)


def test_rows_without_a_name_of_their_weights_survive_the_way_down_and_up(engine: Engine) -> None:
    (done, waiting) = registered(engine, 2).jobs
    with transaction(engine) as session:
        record_labels(session, labels_of(engine, [done]), identity())
    migrate(engine, command.downgrade, "0002")
    for table in ("job", "astronn"):
        assert "weights_name" not in {each["name"] for each in inspect(engine).get_columns(table)}
    migrate(engine, command.upgrade, "head")
    test_migrations_make_exactly_the_models(engine)
    assert names(engine) == {done: None, waiting: None}
    assert registered(engine, 2).open_jobs == [waiting]
    with transaction(engine) as session:
        assert record_labels(session, labels_of(engine, [waiting]), identity()) == 1
        # What waited before is named when it is asked for again; what was done stays.
        rows = {row.task_pk: row.weights_name for row in session.scalars(select(AstroNN))}
        assert rows == {done: None, waiting: "own.pt"}
    assert names(engine) == {done: None, waiting: "own.pt"}


def test_what_this_version_changed_is_taken_back_once(engine: Engine) -> None:
    unlike, job = registered(engine, 2).jobs
    message = labels_of(engine, [unlike])
    results = tuple(each.model_copy(update={"p_training": 0.0}) for each in message.results)
    with transaction(engine) as session:
        record_labels(session, message.model_copy(update={"results": results}), identity())
    downgrade(engine)
    assert "p_training" not in {each["name"] for each in inspect(engine).get_columns("astronn")}
    with pytest.raises(FatalError, match="not of this version"):
        downgrade(engine)
    upgrade(engine)
    test_migrations_make_exactly_the_models(engine)
    assert registered(engine, 2).open_jobs == [job]
    with transaction(engine) as session:
        row = session.get_one(AstroNN, unlike)
        assert (row.p_training, row.result_flags & ResultFlag.UNLIKE_TRAINING) == (None, 0)


def migrate(engine: Engine, move: Callable[[Config, str], None], revision: str) -> None:
    """Move the tables up or down to a revision."""
    config = Config()
    config.set_main_option(
        "script_location", str(Path(database_session.__file__).parent / "migrations")
    )
    with engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


def names(engine: Engine) -> dict[int, str | None]:
    """The weights' names by job."""
    with engine.connect() as connection:
        rows = connection.execute(select(Job.pk, Job.weights_name))
        return {row.pk: row.weights_name for row in rows}


def test_registering_twice_adds_nothing(engine: Engine) -> None:
    first, second = registered(engine, 1200), registered(engine, 1200)
    assert first == second
    assert len(set(first.jobs)) == 1200
    assert [count(engine, model) for model in (Source, Spectrum, Job)] == [1200] * 3


def test_jobs_come_back_in_the_order_of_the_spectra(engine: Engine) -> None:
    jobs = registered(engine, 700).jobs
    with transaction(engine) as session:
        reverse = register(
            session, entries(700)[::-1], weights="w", weights_name="own.pt", tag="", lane="bulk"
        )
    assert reverse.jobs == jobs[::-1]


def test_another_tag_opens_another_job(engine: Engine) -> None:
    assert set(registered(engine, 3).jobs).isdisjoint(registered(engine, 3, tag="b").jobs)
    assert count(engine, Spectrum) == 3


def test_a_star_lies_where_the_first_file_that_tells_it_says(engine: Engine) -> None:
    (silent,) = entries(1)  # as a file is that cannot be read
    told = [replace(silent, ra=10.0, dec=-5.0), replace(silent, ra=11.0, dec=-6.0), silent]
    for part in ([silent], told[:1], told[1:]):
        with transaction(engine) as session:
            register(session, part, weights="w", weights_name="own.pt", tag="", lane="bulk")
    with transaction(engine) as session:
        (star,) = session.scalars(select(Source))
        assert (star.ra, star.dec) == (10.0, -5.0)


def test_a_job_that_is_done_opens_again_only_when_its_file_is_rewritten(engine: Engine) -> None:
    jobs = registered(engine, 2).jobs
    with transaction(engine) as session:
        record_labels(session, labels_of(engine, jobs), identity())
    assert registered(engine, 2).open_jobs == []
    assert registered(engine, 2, version="2-2").open_jobs == jobs
    with transaction(engine) as session:
        record_labels(session, labels_of(engine, jobs, value=7.0, version="2-2"), identity())
    with transaction(engine) as session:
        rows = session.scalars(select(AstroNN).order_by(AstroNN.task_pk)).all()
        assert [row.raw_teff for row in rows] == [7.0 + job for job in jobs]
        assert all(row.created < row.modified for row in rows)


def test_labels_of_a_file_that_was_rewritten_meanwhile_are_left_out(engine: Engine) -> None:
    jobs = registered(engine, 2).jobs
    assert registered(engine, 2, version="2-2").open_jobs == jobs
    with transaction(engine) as session:
        assert record_labels(session, labels_of(engine, jobs), identity()) == 0
        assert record_labels(session, labels_of(engine, jobs, version="2-2"), identity()) == 2


def test_labels_become_one_row_with_noise_model_and_provenance(engine: Engine) -> None:
    (job,) = registered(engine, 1).jobs
    model = NoiseModel(np.full(N_LABELS, 2.0), np.arange(N_LABELS) * 0.5, "abc")
    with transaction(engine) as session:
        assert record_labels(session, labels_of(engine, [job]), model) == 1
    with transaction(engine) as session:
        row = session.scalars(select(AstroNN)).one()
        for n, name in enumerate(LABEL_NAMES):
            assert getattr(row, name) == getattr(row, f"raw_{name}") == 1.0 + job + n
            assert getattr(row, f"raw_e_{name}") == 0.01 * (n + 1)
            assert getattr(row, f"e_{name}") == 2.0 * 0.01 * (n + 1) + 0.5 * n
        assert (row.corrections_sha256, row.mc_samples, row.seed) == ("abc", 100, 0)
        assert (row.weights_sha256, row.weights_name) == ("w", "own.pt")
        assert row.source_pk is not None
        assert session.get_one(Job, job).state == JobState.DONE


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_message_delivered_again_gives_one_row(engine: Engine, times: int) -> None:
    jobs = registered(engine, 40).jobs
    finished = []
    for _ in range(times):
        with transaction(engine) as session:
            finished.append(record_labels(session, labels_of(engine, jobs), identity()))
    assert finished == [40] + [0] * (times - 1)
    assert count(engine, AstroNN) == 40


def test_a_row_whose_uncertainty_the_noise_model_spoils_has_no_labels(engine: Engine) -> None:
    good, spoilt = registered(engine, 2).jobs
    model = NoiseModel(np.ones(N_LABELS), np.zeros(N_LABELS), "abc")
    model.offset[3] = -0.03
    message = labels_of(engine, [good, spoilt])
    results = tuple(
        each.model_copy(update={"raw_e_labels": (raw_e,) * N_LABELS})
        for each, raw_e in zip(message.results, (0.04, 0.03), strict=True)
    )
    with transaction(engine) as session:
        assert record_labels(session, message.model_copy(update={"results": results}), model) == 2
    with transaction(engine) as session:
        rows = {row.task_pk: row for row in session.scalars(select(AstroNN))}
        assert rows[good].e_c_1_h == 0.04 - 0.03
        assert not rows[good].flag_no_result
        assert (rows[spoilt].c_1_h, rows[spoilt].raw_c_1_h, rows[spoilt].e_c_1_h) == (None,) * 3
        assert rows[spoilt].flag_no_result
        assert rows[spoilt].no_result_reason.startswith("The noise model gives e_c_1_h = 0, where")
        assert session.get_one(Job, spoilt).state == JobState.DONE


def test_labels_that_were_not_learnt_are_null(engine: Engine) -> None:
    (job,) = registered(engine, 1).jobs
    message = labels_of(engine, [job])
    (result,) = message.results
    teff, *others = result.raw_labels
    e_teff, *e_others = result.raw_e_labels
    few = {
        "raw_labels": (teff, *others[:-1], None),
        "raw_e_labels": (e_teff, *e_others[:-1], None),
        "p_training": 0.0009,
    }
    message = message.model_copy(update={"results": (result.model_copy(update=few),)})
    with transaction(engine) as session:
        assert record_labels(session, message, identity()) == 1
    with transaction(engine) as session:
        row = session.scalars(select(AstroNN)).one()
        assert (row.ni_h, row.e_ni_h, row.raw_ni_h, row.raw_e_ni_h) == (None,) * 4
        assert (row.teff, row.e_teff, row.raw_co_h) == (teff, e_teff, others[-2])
        assert (row.p_training, row.flag_warn) == (0.0009, True)
        assert row.result_flags & ResultFlag.UNLIKE_TRAINING
        assert not row.flag_no_result


def test_a_late_failure_does_not_replace_labels(engine: Engine) -> None:
    (job,) = registered(engine, 1).jobs
    with transaction(engine) as session:
        record_labels(session, labels_of(engine, [job]), identity())
        record_failures(session, [failure(engine, job, "came too late")])
    with transaction(engine) as session:
        row = session.scalars(select(AstroNN)).one()
        assert not row.flag_no_result
        assert row.no_result_reason is None


def test_a_failure_becomes_a_row_without_labels(engine: Engine) -> None:
    (job,) = registered(engine, 1).jobs
    reason = "apStar-é\0.fits is empty."  # a file may bring any byte along
    with transaction(engine) as session:
        record_failures(session, [failure(engine, job, reason)])
    with transaction(engine) as session:
        row = session.scalars(select(AstroNN)).one()
        assert row.result_flags == ResultFlag.NO_RESULT
        assert row.no_result_reason == "apStar-é\N{REPLACEMENT CHARACTER}.fits is empty."
        assert (row.weights_sha256, row.weights_name) == ("w", "own.pt")
        assert all(getattr(row, name) is None for name in LABEL_NAMES)


@pytest.mark.parametrize(
    "other", [{"natural_key": "apStar-r6-star1/coadd"}, {"file_version": "2-2"}], ids=str
)
def test_results_of_another_life_of_the_database_change_nothing(
    engine: Engine, other: dict[str, str]
) -> None:
    """A database that was restored hands out again the numbers of jobs."""
    (job,) = registered(engine, 1).jobs
    message = labels_of(engine, [job])
    foreign = message.results[0].model_copy(update=other)
    lost = failure(engine, job, "It is gone.").model_copy(update=other)
    setback = Setback(weights="w", failures=(lost,), waiting=True)
    with transaction(engine) as session:
        changed = message.model_copy(update={"results": (foreign,)})
        assert record_labels(session, changed, identity()) == 0
        assert record_failures(session, [lost], "w") == 0
        note_setbacks(session, setback)
        is_foreign = "natural_key" in other  # else its file was rewritten
        assert strangers(session.connection(), [foreign], "w") == [foreign] * is_foreign
    assert count(engine, AstroNN) == 0
    with transaction(engine) as session:
        assert session.scalars(select(Job.last_error)).one() is None
        assert record_labels(session, message, identity()) == 1
        assert strangers(session.connection(), message.results, "w") == []


def test_results_for_other_weights_change_nothing(engine: Engine) -> None:
    (job,) = registered(engine, 1).jobs
    message = labels_of(engine, [job]).model_copy(update={"weights": "v"})
    with transaction(engine) as session:
        assert record_labels(session, message, identity()) == 0
        assert record_failures(session, [failure(engine, job, "No labels.")], "v") == 0
        assert strangers(session.connection(), message.results, "v") == list(message.results)
    assert count(engine, AstroNN) == 0


def test_results_of_unknown_jobs_are_left_out(engine: Engine) -> None:
    with transaction(engine) as session:
        assert record_labels(session, labels_of(engine, [12345]), identity()) == 0


def test_two_recorders_of_the_same_jobs_write_one_row_each(engine: Engine) -> None:
    jobs = registered(engine, 200).jobs
    finished: list[int] = []

    def record() -> None:
        for first in range(0, 200, 10):
            with transaction(engine) as session:
                message = labels_of(engine, jobs[first : first + 10])
                finished.append(record_labels(session, message, identity()))

    threads = [threading.Thread(target=record) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(finished) == count(engine, AstroNN) == 200


def test_a_transaction_that_raises_leaves_nothing(engine: Engine) -> None:
    def fail_in_the_middle() -> None:
        with transaction(engine) as session:
            register(session, entries(5), weights="w", weights_name="own.pt", tag="", lane="bulk")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the very one
        fail_in_the_middle()
    assert count(engine, Spectrum) == 0


def test_the_database_refuses_a_second_row_for_a_job(engine: Engine) -> None:
    (job,) = registered(engine, 1).jobs
    with transaction(engine) as session:
        record_failures(session, [failure(engine, job, "x")])
    with pytest.raises(IntegrityError), transaction(engine) as session:
        session.execute(
            AstroNN.__table__.insert().from_select(
                [column.key for column in AstroNN.__table__.columns], select(AstroNN.__table__)
            )
        )


def test_a_database_that_is_away_is_transient(postgres_url: str) -> None:
    with (
        opened(postgres_url) as engine,
        pytest.raises(TransientError),
        transaction(engine) as session,
    ):
        session.connection().exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
