"""The main job: files in, a table of labels out, with whatever that needs brought up."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from sqlalchemy import Engine, select

from producer.ledger.dispatcher import Dispatcher
from producer.ledger.enqueue import register_files
from producer.ledger.plan import Plan
from producer.ledger.register import Registered
from producer.ledger.release import load_messages
from producer.ledger.requeue import blocks, take_back
from producer.progress import Bar, Finished, Reading
from producer.running.stack_child import StackChild
from worker.database.session import opened, reading, transaction
from worker.database.tables import Job, JobState
from worker.errors import FatalError, TransientError
from worker.local.stack import REDIS
from worker.messages import LoadSpectra
from worker.queues import STAGES, Stage
from worker.results.read import read_table
from worker.settings import Settings, socket_broker_url, socket_folder
from worker.transport.client import broker_answers, broker_client

#: How often the ledger is asked what is done, and how much of it at a time.
_POLL_SECONDS = 0.1
_WINDOW = 2000


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    ``processed`` counts the spectra that got their row in this run, within ``seconds``;
    ``other_provenance`` the rows kept from before that other settings had made.
    """

    table: Table
    processed: int
    seconds: float
    other_provenance: int


def carry_out(plan: Plan, *, serial: bool, headers: Reading, bar: Bar) -> Outcome:
    """Do all of a plan: register its files, process what has no result, read all results.

    Parameters
    ----------
    serial
        In this process alone; otherwise through the stream.
    headers, bar
        How progress is shown: while headers are read, and while spectra are processed.
    """
    with opened(plan.settings.database_url) as database:
        registered = register_files(database, plan, headers)
        started = time.perf_counter()
        if registered.open_jobs:
            process = run_serial if serial else run_stream
            with bar("Processing", len(registered.open_jobs)) as advance:
                process(database, plan, registered.open_jobs, advance)
        return collect(database, plan, registered, time.perf_counter() - started)


def run_serial(database: Engine, plan: Plan, jobs: list[int], finished: Finished) -> None:
    """Process jobs in this process alone."""
    from worker.stages.serial import process

    def messages() -> Iterator[LoadSpectra]:
        for block in blocks(jobs):
            with transaction(database) as session:
                part = load_messages(session, block, chunk_size=plan.settings.chunk_size)
            yield from part

    process(messages(), database, plan.settings, finished)


def run_stream(database: Engine, plan: Plan, jobs: list[int], finished: Finished) -> None:
    """Process jobs through the stream: bring up what is not there, send, and wait."""
    with _stack(plan.settings) as (stack, settings), closing(broker_client(settings)) as client:
        stack.wait_until_ready()
        if plan.settings.broker_url is None:
            take_back(database, jobs)  # an interrupted run had sent them to its own Redis
        _drive(database, Dispatcher(database, client, settings), sorted(jobs), stack, finished)


@contextmanager
def _stack(settings: Settings) -> Iterator[tuple[StackChild, Settings]]:
    """The workers that are not there yet, and a redis-server where none is configured.

    Yields them with the settings that they run with.
    """
    from worker.app import connect_to

    configured = settings.broker_url is not None
    if configured and not broker_answers(settings):
        raise FatalError("No redis-server answers at ASTRONN_STREAM_BROKER_URL.")
    directory = Path(tempfile.mkdtemp(prefix="astronn-stream-", dir=socket_folder()))
    try:
        if not configured:
            settings = settings.changed(broker_url=socket_broker_url(directory))
        connect_to(settings)
        services = [*_stages_without_workers()] if configured else [REDIS, *STAGES]
        with StackChild(settings, directory, services) as stack:
            yield stack, settings
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # where the child could not even start


def _stages_without_workers() -> tuple[Stage, ...]:
    from worker.app import app
    from worker.queues import QUEUES

    served = {
        queue["name"]
        for queues in (app.control.inspect(timeout=2.0).active_queues() or {}).values()
        for queue in queues
    }
    return tuple(stage for stage in STAGES if not served.issuperset(QUEUES[stage]))


def _drive(
    database: Engine,
    dispatcher: Dispatcher,
    remaining: list[int],
    stack: StackChild,
    finished: Finished,
) -> None:
    """Send jobs and wait until each has its row; what gets lost is sent again."""
    restarted, window = False, remaining[:_WINDOW]
    while remaining:
        answered = dispatcher.step(window, held_are_lost=restarted)
        if answered and (done := _done(database, window)):
            remaining, window = (
                [job for job in jobs if job not in done] for jobs in (remaining, window)
            )
            finished(len(done))
        else:
            time.sleep(_POLL_SECONDS)
        if len(window) < _WINDOW // 2:  # much at once, so that messages are full
            window = remaining[:_WINDOW]
        restarted = stack.check() or (restarted and not answered)


def _done(database: Engine, jobs: list[int]) -> set[int]:
    """The jobs that are done; none while the database is away, which the dispatcher tells."""
    statement = select(Job.pk).where(Job.pk.in_(jobs), Job.state == JobState.DONE)
    with suppress(TransientError), reading(database) as connection:
        return set(connection.scalars(statement))
    return set()


def collect(database: Engine, plan: Plan, registered: Registered, seconds: float) -> Outcome:
    """Read the rows of a run's spectra."""
    table = read_table(database, jobs=registered.jobs)
    if len(table) != len(registered.jobs):
        raise FatalError(
            f"{len(registered.jobs)} spectra were registered, but there are {len(table)} rows; "
            "run the same command again."
        )
    kept = table[~np.isin(table["task_pk"], registered.open_jobs)]
    return Outcome(table, len(registered.open_jobs), seconds, _of_other_settings(kept, plan))


def _of_other_settings(table: Table, plan: Plan) -> int:
    """How many labelled rows another noise model, seed or number of passes had made."""
    labelled = table[~table["flag_no_result"]]
    same = [
        (row["corrections_sha256"], row["seed"], row["mc_samples"])
        == (plan.corrections or "", plan.settings.seed, plan.settings.mc_samples)
        for row in labelled
    ]
    return same.count(False)
