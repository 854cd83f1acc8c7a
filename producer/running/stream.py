"""A run through the stream: the stack that it brings up, and its jobs until each has its row."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Engine, select

from producer.ledger.dispatcher import Dispatcher
from producer.ledger.plan import Plan
from producer.ledger.requeue import take_back
from producer.progress import Finished
from producer.running.stack_child import StackChild
from worker.database.session import reading
from worker.database.tables import Job, JobState
from worker.errors import FatalError, TransientError
from worker.local.stack import REDIS
from worker.queues import STAGES, Stage
from worker.settings import Settings, socket_broker_url, socket_folder
from worker.transport.client import broker_answers, broker_client

#: How often the ledger is asked what is done, and how much of it at a time.
_POLL_SECONDS = 0.1

_WINDOW = 2000


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
