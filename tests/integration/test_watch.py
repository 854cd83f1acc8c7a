"""A watched folder and a real database: what is registered for the dispatcher to send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text

import producer.watching.arrivals
import producer.watching.settling
import producer.watching.watch
from benchmarks.rig.waiting import wait_for
from producer import enqueue
from producer.ledger.plan import Plan
from producer.watching.arrivals import Arrivals
from producer.watching.settling import Settling
from producer.watching.watch import Watch
from tests.inputs.apstar_files import write_apstar
from tests.integration.conftest import Stream
from worker.database.tables import AstroNN, Spectrum
from worker.settings import get_settings


class Watched:
    """A data root of a test's own, watched by one Watch after another."""

    def __init__(self, stream: Stream, root: Path) -> None:
        self.stream, self.root = stream, root
        self.broker_url: str | None = None  # that of the stream
        stream.change_jobs(state="done")  # those of the fixture
        self.fixture = set(stream.states())

    def write(self, name: str, n_visits: int = 2, **options: object) -> Path:
        return write_apstar(self.root / name, era="sdss5", n_visits=n_visits, **options).path  # type: ignore[arg-type]

    @contextmanager
    def watching(self, tag: str = "") -> Iterator[Callable[[Callable[[], object], str], None]]:
        """A watch; call what this gives to let it go on until a condition holds."""
        settings = get_settings().changed(broker_url=self.broker_url)
        plan = Plan.without_files(settings, wanted="both", tag=tag)
        with closing(Arrivals(self.root, self.root)) as arrivals:
            watch = Watch(arrivals, Settling(0.05), plan, self.stream.engine, "live", 0.1)

            def until(condition: Callable[[], object], what: str) -> None:
                def met() -> object:
                    watch.step()
                    return condition()

                wait_for(met, what, 30)

            yield until

    def until(self, condition: Callable[[], object], what: str, tag: str = "") -> None:
        """Start a watch, and stop it soon after a condition holds."""
        rounds = iter(range(5))
        with self.watching(tag) as go_on_until:
            go_on_until(condition, what)
            go_on_until(lambda: next(rounds) == 4, "what comes in excess")

    def until_queued(self, count: int, tag: str = "") -> None:
        self.until(lambda: len(self.queued()) >= count, f"{count} spectra", tag)
        assert len(self.queued()) == count

    def finish(self) -> None:
        """Take all jobs for done, without the work."""
        self.stream.client.flushdb()
        self.stream.change_jobs(state="done")

    def queued(self) -> list[str]:
        """The spectra in the messages of the live loaders, after a dispatcher has sent."""
        self.stream.send()
        messages = map(self.stream.message_of, self.stream.queued("load.live"))
        return [
            f"{each['path']} {each['member'][-15:-9]}".removesuffix(" ")
            for message in messages
            for each in message["spectra"]
        ]

    def jobs(self) -> dict[str, int]:
        """How many jobs are in each state."""
        states = [s for job, s in self.stream.states().items() if job not in self.fixture]
        return {state: states.count(state) for state in set(states)}

    def rows(self) -> dict[tuple[str, str], float | None]:
        """The temperature of each spectrum that has a row."""
        statement = select(Spectrum.path, Spectrum.member, AstroNN.teff).join(
            AstroNN, AstroNN.spectrum_pk == Spectrum.pk
        )
        with self.stream.engine.connect() as connection:
            return {(path, member): teff for path, member, teff in connection.execute(statement)}

    def change_tables(self, statement: str) -> None:
        with self.stream.engine.begin() as connection:
            connection.execute(text(statement))


@pytest.fixture
def watched(stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ASTRONN_STREAM_DATA_ROOT", str(tmp_path / "data"))
    get_settings.cache_clear()
    return Watched(stream, tmp_path / "data")


def test_a_second_start_finds_what_came_meanwhile(watched: Watched) -> None:
    first = watched.write("a/apStar-1.3-apo25m-x1.fits", seed=1)
    watched.until_queued(3)
    assert watched.jobs() == {"queued": 3}
    watched.finish()
    watched.write("b/apStar-1.3-apo25m-x2.fits", seed=2)
    watched.write("a/apStar-1.3-apo25m-x1.fits", seed=1, n_visits=3)
    watched.until_queued(7)
    watched.finish()
    assert watched.jobs() == {"done": 7}
    watched.until(lambda: True, "a third start")
    assert watched.queued() == []
    first.unlink()  # what is gone keeps its rows
    watched.until(lambda: True, "a fourth start")
    assert watched.jobs() == {"done": 7}


def test_a_start_completes_a_file_that_has_jobs_for_a_part_of_its_spectra(
    watched: Watched,
) -> None:
    watched.write("apStar-1.3-apo25m-x1.fits")
    watched.until_queued(3)
    watched.finish()
    watched.change_tables("DELETE FROM job WHERE pk = (SELECT max(pk) FROM job)")
    watched.until_queued(1)


def test_a_file_whose_visits_alone_were_enqueued_is_completed(watched: Watched) -> None:
    """As after `enqueue --summary allVisit`."""
    file = watched.write("apStar-1.3-apo25m-x1.fits")
    assert enqueue([file], kind="visit").waiting == 2
    watched.until_queued(3)


def test_another_tag_is_computed_anew(watched: Watched) -> None:
    watched.write("apStar-1.3-apo25m-x1.fits")
    watched.until_queued(3)
    watched.finish()
    watched.until_queued(3, tag="again")


def test_rows_of_a_rewritten_file_stay_until_they_are_replaced(watched: Watched) -> None:
    name = "apStar-1.3-apo25m-x1.fits"
    watched.write(name, n_visits=1, seed=1)
    watched.until_queued(2)
    watched.stream.drain()
    before = watched.rows()
    watched.write(name, n_visits=2, seed=1)
    watched.until_queued(3)
    assert watched.rows() == before
    assert len(before) == 2
    watched.stream.drain()
    after = watched.rows()
    assert len(after) == 3
    assert all(after[spectrum] not in (None, before[spectrum]) for spectrum in before)


def test_a_new_version_of_a_star_brings_spectra_of_its_own(watched: Watched) -> None:
    """The reduction writes a new file for a new night, and points its link there."""
    link = watched.root / "apStar-1.3-apo25m-x1.fits"
    watched.write("apStar-1.3-apo25m-x1-60049.fits", n_visits=1)
    link.symlink_to("apStar-1.3-apo25m-x1-60049.fits")
    watched.until_queued(2)
    watched.finish()
    watched.write("apStar-1.3-apo25m-x1-60050.fits", n_visits=2)
    link.unlink()
    link.symlink_to("apStar-1.3-apo25m-x1-60050.fits")
    watched.until_queued(3)
    assert {each.split()[0] for each in watched.queued()} == {"apStar-1.3-apo25m-x1-60050.fits"}
    assert watched.jobs() == {"done": 2, "queued": 3}


def test_a_file_that_stays_incomplete_ends_as_a_row(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer.watching.settling, "PATIENCE_SECONDS", 0.5)
    watched.write("apStar-1.3-apo25m-x1.fits", n_hdus=5)
    watched.until_queued(1)
    watched.stream.drain()
    assert [reason for reason in watched.stream.reasons().values() if reason is not None] == [
        "apStar-1.3-apo25m-x1.fits has 5 of at least 10 HDUs: it is no apStar file, or an "
        "incomplete one."
    ]
    watched.write("apStar-1.3-apo25m-x1.fits")
    watched.until_queued(3)
    watched.stream.drain()
    assert None not in watched.rows().values()


def test_a_database_that_is_away_is_waited_for(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.write("apStar-1.3-apo25m-x1.fits", seed=1)
    watched.change_tables("ALTER TABLE job RENAME TO away")
    with watched.watching() as go_on_until:
        go_on_until(lambda: "waiting" in caplog.text, "the outage")
        watched.write("apStar-1.3-apo25m-x2.fits", seed=2)
        moment = time.monotonic()
        go_on_until(lambda: time.monotonic() - moment > 2, "another try")
        watched.change_tables("ALTER TABLE away RENAME TO job")
        go_on_until(lambda: len(watched.queued()) == 6, "both files")
    assert caplog.text.count("waiting") == caplog.text.count("goes on") == 1


def test_a_database_from_a_backup_learns_of_what_it_has_forgotten(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer.watching.arrivals, "WHOLE_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(producer.watching.watch, "WHOLE_LOOK_SECONDS", 0.2)
    watched.write("apStar-1.3-apo25m-x1.fits")
    with watched.watching() as go_on_until:
        go_on_until(lambda: len(watched.queued()) == 3, "three spectra")
        watched.finish()
        watched.change_tables("DELETE FROM job WHERE pk = (SELECT max(pk) FROM job)")
        go_on_until(lambda: len(watched.queued()) == 1, "the one that was forgotten")


def test_spectra_are_registered_while_redis_is_away(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.broker_url = "redis+socket:///nowhere/none.sock"
    watched.write("apStar-1.3-apo25m-x1.fits", seed=1)
    watched.write("apStar-1.3-apo25m-x2.fits", seed=2)
    watched.until(lambda: watched.jobs() == {"waiting": 6}, "all jobs")
    assert "waiting" not in caplog.text
    assert watched.stream.send() == 6


def test_a_file_that_the_database_refuses_does_not_keep_others_out(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.change_tables("CREATE UNIQUE INDEX one_star ON spectrum (obj, member)")
    for name in ("x1", "x2", "x3"):
        watched.write(f"apStar-1.3-apo25m-{name}.fits", seed=2 if name == "x3" else 1)
    watched.until_queued(6)
    assert caplog.text.count("the database refuses") == 1
