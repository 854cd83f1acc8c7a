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
from worker.errors import TransientError
from worker.network.starter import STARTER_NAME, is_starter
from worker.served import served_weights
from worker.settings import Settings

_WORKERS_SECONDS = 1.0


def read_status(settings: Settings) -> dict[str, dict[str, Any]]:
    """Messages by queue, jobs by state, results, and the workers that answer.

    What cannot be reached says so in its place.
    """
    served, queues = _queues(settings)
    return {"queues": queues, "jobs": _jobs(settings, served), "workers": _workers()}


def _queues(settings: Settings) -> tuple[str | None, dict[str, Any]]:
    """The weights that the stack serves, where its dispatcher says so, and what Redis holds."""
    client = broker_client(settings)
    try:
        served = served_weights(client)
        names = [queue for queues in QUEUES.values() for queue in queues]
        depths: dict[str, Any] = {name: client.llen(name) for name in names}
        depths["taken, not acknowledged"] = client.hlen(UNACKED)
        depths["dispatcher"] = "answers" if dispatcher_answers(client) else "none"
        return served, depths | _name_of(served)
    except (redis.ConnectionError, redis.TimeoutError, TransientError):
        return None, {"redis": "does not answer; is a stack up?"}
    finally:
        client.close()


def _name_of(served: str | None) -> dict[str, str]:
    if served is None:
        return {}
    return {"weights": STARTER_NAME if is_starter(served) else served[:12]}


def _jobs(settings: Settings, served: str | None) -> dict[str, Any]:
    if not exists(settings.database_url):
        return {}
    engine = open_database(settings.database_url)
    try:
        with engine.connect() as connection:
            states = connection.execute(
                select(Job.state, func.count().label("number")).group_by(Job.state)
            )
            jobs: dict[str, Any] = {row.state: row.number for row in states}
            jobs |= _for_other_weights(connection, served)
            unlabelled = select(func.count()).where(AstroNN.flag_no_result)
            return jobs | {"without labels": connection.scalar(unlabelled)}
    except SQLAlchemyError:
        return {"database": "cannot be read; has `astronn-stream db upgrade` been run?"}
    finally:
        engine.dispose()


def _for_other_weights(connection: Connection, served: str | None) -> dict[str, int]:
    """How many jobs wait that the dispatcher of this stack leaves to another, if there are any."""
    if served is None:
        return {}
    number = connection.scalar(
        select(func.count()).where(Job.state == JobState.WAITING, Job.weights_sha256 != served)
    )
    return {"waiting for other weights": number} if number else {}


def _workers() -> dict[str, Any]:
    try:
        answers = app.control.inspect(timeout=_WORKERS_SECONDS).ping() or {}
    except BrokerError:
        return {}
    return dict.fromkeys(sorted(answers), "answers")
