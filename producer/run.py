"""The main job: files in, a table of labels out, with whatever that needs brought up."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from astropy.table import Table
from sqlalchemy import Engine, select

from producer.dispatch import dispatch, load_messages
from producer.register import Registered, register
from producer.sources import Wanted, find_files, spectra_of
from producer.stack import StackChild
from worker.database.session import transaction
from worker.database.tables import Job, JobState
from worker.embedded import REDIS, broker_answers
from worker.errors import FatalError
from worker.messages import STAGES, Failure, Lane, LoadSpectra, Stage
from worker.network.checkpoint import weights_sha256
from worker.results.export import read_table
from worker.results.noise_model import read_noise_model
from worker.results.record import record_failures
from worker.settings import Settings, socket_broker_url, socket_folder, use_settings

#: How often the ledger is asked what is done, and how much of it at a time.
_POLL_SECONDS = 0.1
_WINDOW = 2000
#: After this long without any result the open jobs are sent again, at most so many times.
_STALLED_SECONDS = 120.0
_MOST_ATTEMPTS = 3
_REGISTERED_AT_ONCE = 500

#: Told of the spectra that got their row.
Finished = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    ``processed`` counts the spectra that got their row in this run, within ``seconds``;
    ``other_provenance`` the rows kept from before that other settings had made.
    """

    table: Table
    processed: int
    seconds: float
    other_provenance: int


@dataclass(frozen=True)
class Plan:
    """What a run is to do; made before anything is brought up, so that mistakes show at once.

    Raises
    ------
    UsageError, FatalError
        Something given cannot be used.
    """

    settings: Settings
    files: list[Path]
    wanted: Wanted
    weights: str
    corrections: str | None
    tag: str

    @classmethod
    def make(cls, paths: Sequence[Path], settings: Settings, *, wanted: Wanted, tag: str) -> Plan:
        """Check all that can be checked before the work."""
        return cls(
            settings=settings,
            files=find_files(paths, settings.data_root),
            wanted=wanted,
            weights=weights_sha256(settings.required_model()),
            corrections=read_noise_model(settings.corrections).sha256,
            tag=tag,
        )


def register_files(
    engine: Engine,
    plan: Plan,
    progress: Callable[[Sequence[Path]], Iterator[Path]],
    lane: Lane = "bulk",
) -> Registered:
    """Register the spectra of a plan's files and open their jobs.

    Files are read between transactions, so that results can be written meanwhile.
    """
    entries = (
        entry
        for file in progress(plan.files)
        for entry in spectra_of(file, plan.settings.data_root, plan.wanted)
    )
    parts = []
    while block := list(islice(entries, _REGISTERED_AT_ONCE)):
        with transaction(engine) as session:
            parts.append(register(session, block, weights=plan.weights, tag=plan.tag, lane=lane))
    return Registered(
        [job for part in parts for job in part.jobs],
        [job for part in parts for job in part.open_jobs],
    )


def enqueue_files(engine: Engine, plan: Plan, registered: Registered, lane: Lane) -> int:
    """Send the jobs that wait to a running stack; returns how many spectra were sent."""
    from worker.app import publish

    with engine.connect() as connection:
        statement = select(Job.pk).where(Job.state == JobState.WAITING)
        waiting = set(connection.scalars(statement)).intersection(registered.open_jobs)
    return dispatch(
        engine,
        sorted(waiting),
        publish,
        weights=plan.weights,
        lane=lane,
        chunk_size=plan.settings.chunk_size,
    )


def run_serial(engine: Engine, plan: Plan, jobs: list[int], finished: Finished) -> None:
    """Process jobs in this process alone."""
    from worker.serial import process

    def messages() -> Iterator[LoadSpectra]:
        for block in _blocks(jobs):
            with transaction(engine) as session:
                part = load_messages(
                    session,
                    block,
                    weights=plan.weights,
                    lane="bulk",
                    chunk_size=plan.settings.chunk_size,
                )
            yield from part

    process(messages(), engine, plan.settings, finished)


def run_stream(engine: Engine, plan: Plan, jobs: list[int], finished: Finished) -> None:
    """Process jobs through the stream: bring up what is not there, send, and wait."""
    with _stack(plan.settings) as stack:
        stack.wait_until_ready()
        _drive(engine, plan, jobs, stack, finished)


@contextmanager
def _stack(settings: Settings) -> Iterator[StackChild]:
    """The workers that are not there yet, and a redis-server where none is configured."""
    if settings.broker_url is not None and not broker_answers(settings):
        raise FatalError("No redis-server answers at ASTRONN_STREAM_BROKER_URL.")
    directory = Path(tempfile.mkdtemp(prefix="astronn-stream-", dir=socket_folder()))
    try:
        if settings.broker_url is None:
            settings = settings.changed(broker_url=socket_broker_url(directory))
            use_settings(settings)
            services = [REDIS, *STAGES]
        else:
            use_settings(settings)
            services = [*_stages_without_workers()]
        with StackChild(settings, directory, services) as stack:
            yield stack
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # where the child could not even start


def _stages_without_workers() -> tuple[Stage, ...]:
    from worker.app import QUEUES, app

    served = {
        queue["name"]
        for queues in (app.control.inspect(timeout=2.0).active_queues() or {}).values()
        for queue in queues
    }
    return tuple(stage for stage in STAGES if not served.issuperset(QUEUES[stage]))


def _drive(
    engine: Engine, plan: Plan, jobs: list[int], stack: StackChild, finished: Finished
) -> None:
    """Send jobs and wait until each has its row; what gets lost is sent again."""
    from worker.app import publish

    remaining = sorted(jobs)
    in_vain = 0
    while remaining and in_vain < _MOST_ATTEMPTS:
        before = len(remaining)
        dispatch(
            engine,
            remaining,
            publish,
            weights=plan.weights,
            lane="bulk",
            chunk_size=plan.settings.chunk_size,
        )
        remaining = _wait(engine, remaining, stack, finished)
        in_vain = in_vain + 1 if len(remaining) == before else 0
    _give_up(engine, remaining)
    finished(len(remaining))


def _wait(engine: Engine, remaining: list[int], stack: StackChild, finished: Finished) -> list[int]:
    """Wait until the jobs are done; returns those that are not, once they have to be sent again."""
    last_result = time.monotonic()
    while remaining:
        done = _done(engine, remaining[:_WINDOW])
        if done:
            remaining = [job for job in remaining if job not in done]
            finished(len(done))
            last_result = time.monotonic()
            continue
        if stack.check() or time.monotonic() - last_result > _STALLED_SECONDS:
            break
        time.sleep(_POLL_SECONDS)
    return remaining


def _done(engine: Engine, jobs: list[int]) -> set[int]:
    with engine.connect() as connection:
        statement = select(Job.pk).where(Job.pk.in_(jobs), Job.state == JobState.DONE)
        return set(connection.scalars(statement))


def _give_up(engine: Engine, jobs: list[int]) -> None:
    reason = f"No worker finished this spectrum in {_MOST_ATTEMPTS} attempts; see their logs."
    for block in _blocks(jobs):
        with transaction(engine) as session:
            found = session.execute(select(Job.pk, Job.spectrum_pk).where(Job.pk.in_(block)))
            record_failures(
                session, [Failure(job=pk, spectrum=key, reason=reason) for pk, key in found]
            )


def _blocks(jobs: list[int]) -> Iterator[list[int]]:
    """As many jobs at a time as a statement may name."""
    for first in range(0, len(jobs), _WINDOW):
        yield jobs[first : first + _WINDOW]


def collect(engine: Engine, plan: Plan, registered: Registered, seconds: float) -> Outcome:
    """Read the rows of a run's spectra."""
    table = read_table(engine, jobs=registered.jobs)
    if len(table) != len(registered.jobs):
        raise FatalError(
            f"{len(registered.jobs)} spectra were registered, but there are {len(table)} rows; "
            "run the same command again."
        )
    kept = table[~np.isin(table["task_pk"], registered.open_jobs)]
    return Outcome(table, len(registered.open_jobs), seconds, _of_other_settings(kept, plan))


def _of_other_settings(table: Table, plan: Plan) -> int:
    """How many labelled rows other corrections, seed or number of passes had made."""
    labelled = table[~table["flag_no_result"]]
    same = [
        (row["corrections_sha256"], row["seed"], row["mc_samples"])
        == (plan.corrections or "", plan.settings.seed, plan.settings.mc_samples)
        for row in labelled
    ]
    return same.count(False)
