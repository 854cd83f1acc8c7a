"""What the stream is doing: queues, jobs and workers."""

from __future__ import annotations

from typing import Any

import redis
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from worker.app import QUEUES, app
from worker.broker import UNACKED, dispatcher_answers
from worker.database.session import exists, open_database
from worker.database.tables import AstroNN, Job, JobState
from worker.embedded import broker_client
from worker.network.checkpoint import weights_sha256
from worker.settings import Settings

_WORKERS_SECONDS = 1.0


def read_status(settings: Settings) -> dict[str, dict[str, Any]]:
    """Messages by queue, jobs by state, results, and the workers that answer.

    What cannot be reached says so in its place.
    """
    return {"queues": _queues(settings), "jobs": _jobs(settings), "workers": _workers()}


def _queues(settings: Settings) -> dict[str, Any]:
    client = broker_client(settings)
    try:
        names = [queue for queues in QUEUES.values() for queue in queues]
        depths: dict[str, Any] = {name: client.llen(name) for name in names}
        depths["taken, not acknowledged"] = client.hlen(UNACKED)
        return depths | {"dispatcher": "answers" if dispatcher_answers(client) else "none"}
    except (redis.ConnectionError, redis.TimeoutError):
        return {"redis": "does not answer; is a stack up?"}
    finally:
        client.close()


def _jobs(settings: Settings) -> dict[str, Any]:
    if not exists(settings.database_url):
        return {}
    engine = open_database(settings.database_url)
    try:
        with engine.connect() as connection:
            states = connection.execute(
                select(Job.state, func.count().label("number")).group_by(Job.state)
            )
            jobs: dict[str, Any] = {row.state: row.number for row in states}
            jobs |= _for_other_weights(connection, settings)
            unlabelled = select(func.count()).where(AstroNN.flag_no_result)
            return jobs | {"without labels": connection.scalar(unlabelled)}
    except SQLAlchemyError:
        return {"database": "cannot be read; has `astronn-stream db upgrade` been run?"}
    finally:
        engine.dispose()


def _for_other_weights(connection: Connection, settings: Settings) -> dict[str, int]:
    """How many jobs wait that the dispatcher of this stack leaves to another, if there are any."""
    if settings.model is None:
        return {}
    number = connection.scalar(
        select(func.count()).where(
            Job.state == JobState.WAITING, Job.weights_sha256 != weights_sha256(settings.model)
        )
    )
    return {"waiting for other weights": number} if number else {}


def _workers() -> dict[str, Any]:
    try:
        answers = app.control.inspect(timeout=_WORKERS_SECONDS).ping() or {}
    except BrokerError:
        return {}
    return dict.fromkeys(sorted(answers), "answers")
