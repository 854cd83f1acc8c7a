"""What the stream is doing, and what is down.

A look costs the same whether the ledger holds a hundred jobs or a hundred million: nothing is
counted that grows with the jobs done.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

import redis
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from worker.database.session import exists, opened_to_read, why_not
from worker.database.tables import OPEN, UNLABELLED, AstroNN, Job, JobState, now
from worker.database.tally import Count, read_tally
from worker.errors import FatalError, TransientError
from worker.messages import WIRE
from worker.queues import ALL_QUEUES, LANES, QUEUES, STAGES, Lane, lane_queue
from worker.settings import PREFIX, Settings
from worker.starter.bundled import bundled_with
from worker.transport.broker import UNACKED, dispatcher_version
from worker.transport.client import broker_client
from worker.transport.refusal import REDIS_ERRORS, check_writes, is_away, why_away
from worker.transport.served_weights import served_weights
from worker.transport.set_aside import number_set_aside
from worker.transport.vitals import (
    RATE_SECONDS,
    living_workers,
    rate,
    served_spectra,
    strangers_counted,
)

#: The tasks that serve spectra; of the last two comes each row.
TASKS = ("load", "infer", "record", "no_result")
#: How many of the newest rows without labels, and of the jobs on their way, are looked at.
_LATEST = 200
#: How long PostgreSQL may take for an answer.
_PATIENCE_SECONDS = 5


class Reason(BaseModel):
    """Why spectra have no labels, or why they are late."""

    reason: str
    number: int
    latest: datetime
    example: str


class Worker(BaseModel):
    """A worker that lives, and the queues that it serves; numbers are of the last half minute.

    ``settings`` are those on which labels depend, ``version`` is that of its software and ``wire``
    that of the messages that it knows. ``busy`` is the fraction of the time that the device
    computed, ``batch_size`` the mean number of spectra in a batch, ``batch_wait`` the mean
    seconds that one waited for its batch. ``engine`` names its precision, as ``cpu (bfloat16)``;
    ``weights`` are the SHA-256 of those that it serves.
    """

    queues: list[str] = []
    settings: dict[str, str] = {}
    version: str = "an older version"
    wire: str = ""
    weights: list[str] = []
    device: str | None = None
    engine: str | None = None
    busy: float | None = None
    batch_size: float | None = None
    batch_wait: float | None = None


def _worker(vitals: dict[str, Any]) -> Worker:
    """A worker as its vitals have it; of another version's their names alone are sure."""
    try:
        return Worker.model_validate(vitals)
    except ValidationError:
        return Worker()


class Status(BaseModel):
    """All that is known of the stream; what cannot be known is None or empty.

    Attributes
    ----------
    problems
        What is down or stands still, a sentence each; empty when all is well.
    redis, redis_writes
        Redis answers, and it takes writes: without that no worker can say that it lives.
    queues, marks
        Messages in each queue, and at how many loaders pause.
    taken
        Messages in the hands of workers.
    set_aside
        What lay in the queues and was no message, as far as it is kept.
    weights
        SHA-256 of the weights that the stack serves by default.
    open_by_weights
        Open jobs for all weights that it serves, by their SHA-256.
    jobs
        Jobs by lane and state.
    other_weights
        Jobs that wait for weights that this stack does not serve.
    without_labels
        Rows without labels.
    strangers
        Results of the last day that were no job's of this database; they changed nothing.
    spectra
        What each task has served since Redis began.
    spectra_per_second
        What each task has served in the last minute.
    eta_seconds
        How long the open jobs will take at the rate at which rows are written now.
    oldest_live_seconds
        Since when the live spectrum has waited that has for longest, in the database or in the
        stream: since it was enqueued or last sent. Those for other weights do not count.
    oldest_queued_seconds
        For how long the job has been under way that was sent first.
    workers
        The workers that live, by name.
    failures
        Reasons of the newest rows without labels.
    setbacks
        What keeps jobs on their way.
    """

    version: int = 1
    problems: list[str] = []
    redis: bool = False
    redis_writes: bool = False
    database: bool = False
    dispatcher: bool = False
    dispatcher_version: str | None = None
    weights: str | None = None
    weights_name: str | None = None
    open_by_weights: dict[str, int] = {}
    queues: dict[str, int] = {}
    marks: dict[str, int] = {}
    taken: int | None = None
    set_aside: int | None = None
    jobs: dict[str, dict[str, int]] = {}
    other_weights: int | None = None
    without_labels: int | None = None
    strangers: int = 0
    spectra: dict[str, int] = {}
    spectra_per_second: dict[str, float] = {}
    eta_seconds: float | None = None
    oldest_live_seconds: float | None = None
    oldest_queued_seconds: float | None = None
    workers: dict[str, Worker] = {}
    failures: list[Reason] = []
    setbacks: list[Reason] = []

    def open_jobs(self) -> int:
        """Jobs that wait or are under way."""
        return sum(
            number
            for states in self.jobs.values()
            for state, number in states.items()
            if state != JobState.DONE
        )

    def serving(self, *queues: str) -> int:
        """How many workers that live serve one of these queues."""
        return sum(not set(queues).isdisjoint(each.queues) for each in self.workers.values())

    def rows_per_second(self) -> float:
        """Rows written a second, with labels or without."""
        return sum(self.spectra_per_second.get(task, 0.0) for task in ("record", "no_result"))


def read_status(settings: Settings) -> Status:
    """Look at Redis and at the database; either may be away.

    Raises
    ------
    FatalError
        Redis is there but refuses us.
    """
    status = Status(marks={lane_queue("infer", "bulk"): settings.infer_backlog})
    away = [*_look_at_redis(settings, status), *_look_at_database(settings, status)]
    if (rows := status.rows_per_second()) and status.database:
        status.eta_seconds = (status.open_jobs() - (status.other_weights or 0)) / rows
    status.problems = [*away, *_problems(status, settings)]
    return status


def _look_at_redis(settings: Settings, status: Status) -> Iterator[str]:
    with closing(broker_client(settings)) as client:
        try:
            status.queues = {name: client.llen(name) for name in ALL_QUEUES}
            status.taken = client.hlen(UNACKED)
            status.set_aside = number_set_aside(client)
            status.dispatcher_version = dispatcher_version(client)
            status.dispatcher = status.dispatcher_version is not None
            status.workers = {
                name: _worker(vitals) for name, vitals in living_workers(client).items()
            }
            status.strangers = strangers_counted(client)
            status.spectra = dict.fromkeys(TASKS, 0) | served_spectra(client)
            status.spectra_per_second = {task: rate(client, task) for task in TASKS}
            status.open_by_weights = dict.fromkeys(served_weights(client), 0)
            status.redis = True
            check_writes(client)
            status.redis_writes = True
        except (*REDIS_ERRORS, TransientError) as error:
            yield _why_not_redis(client, error.__cause__ or error)
    status.weights = next(iter(status.open_by_weights), None)
    if status.weights is not None:
        bundled = bundled_with(status.weights)
        status.weights_name = bundled.rows_name if bundled else status.weights[:12]


def _why_not_redis(client: redis.Redis, error: BaseException) -> str:
    if is_away(error):
        return "Redis does not answer; is a stack up?"
    where = client.connection_pool.connection_kwargs
    return why_away(f"Redis at {where.get('path') or '{host}:{port}'.format(**where)}", error)


def _look_at_database(settings: Settings, status: Status) -> Iterator[str]:
    if not exists(settings.database_url):
        yield "There is no database yet; `astronn-stream enqueue` makes one."
        return
    try:
        with opened_to_read(settings.database_url) as database, database.connect() as connection:
            if database.dialect.name == "postgresql":
                _ask_postgresql_for_little(connection)
            _look_at_jobs(connection, status)
    except DBAPIError as error:
        yield why_not(error)
    except FatalError as error:
        yield str(error)
    else:
        status.database = True


def _ask_postgresql_for_little(connection: Connection) -> None:
    """Wait for no lock for long, as while tables are changed; and never read a whole table.

    Each question has its index, but what the planner knows of the tables may be a day old.
    """
    connection.execute(text(f"SET LOCAL statement_timeout = '{_PATIENCE_SECONDS}s'"))
    connection.execute(text("SET LOCAL enable_seqscan = off"))


def _look_at_jobs(connection: Connection, status: Status) -> None:
    tally = read_tally(connection)
    served = [Job.weights_sha256.in_(status.open_by_weights)] if status.open_by_weights else []
    live = select(func.min(Job.updated_at)).where(OPEN, Job.lane == "live", *served)
    queued = select(func.min(Job.updated_at)).where(Job.state == JobState.QUEUED)
    without = connection.scalar(select(func.count()).select_from(AstroNN).where(UNLABELLED))
    status.failures = _failures(connection)
    status.setbacks = _setbacks(connection)
    status.without_labels = without or 0
    status.jobs = {
        lane: {state.value: _number(tally, lane, state) for state in JobState} for lane in LANES
    }
    status.oldest_live_seconds = _age(connection.scalar(live))
    status.oldest_queued_seconds = _age(connection.scalar(queued))
    if status.weights is not None:
        status.other_weights = 0
        for each in tally:
            if each.weights_sha256 in status.open_by_weights:
                open_ones = 0 if each.state == JobState.DONE else each.number
                status.open_by_weights[each.weights_sha256] += open_ones
            elif each.state == JobState.WAITING:
                status.other_weights += each.number


def _age(moment: datetime | None) -> float | None:
    return None if moment is None else max(0.0, (now() - moment).total_seconds())


def _number(tally: list[Count], lane: Lane, state: JobState) -> int:
    return sum(each.number for each in tally if (each.lane, each.state) == (lane, state))


def _failures(connection: Connection) -> list[Reason]:
    statement = (
        select(AstroNN.no_result_reason, AstroNN.modified)
        .where(UNLABELLED)
        .order_by(AstroNN.modified.desc())
        .limit(_LATEST)
    )
    return _by_reason([(str(reason), moment) for reason, moment in connection.execute(statement)])


def _setbacks(connection: Connection) -> list[Reason]:
    on_their_way = select(Job.last_error, Job.updated_at).where(
        Job.state == JobState.QUEUED, Job.last_error.is_not(None)
    )
    found = connection.execute(on_their_way.limit(_LATEST))
    return _by_reason([(str(reason), moment) for reason, moment in found])


#: Names of files and numbers, in which reasons of one kind differ.
_PARTICULAR = re.compile(r"\S*\d\S*|\S+\.fits(\.gz)?\S*")


def _by_reason(found: list[tuple[str, datetime]]) -> list[Reason]:
    """The kinds of reasons, the most frequent first, each with its newest example."""
    kinds = [_PARTICULAR.sub("…", reason) for reason, _ in found]
    newest: dict[str, tuple[str, datetime]] = {}
    for kind, one in zip(kinds, found, strict=True):
        newest[kind] = max(newest.get(kind, one), one, key=lambda each: each[1])
    return [
        Reason(reason=kind, number=number, latest=newest[kind][1], example=newest[kind][0])
        for kind, number in Counter(kinds).most_common()
    ]


def _problems(status: Status, settings: Settings) -> Iterator[str]:
    """What is wrong, as far as what answers tells."""
    if status.redis_writes:
        if not status.dispatcher:
            yield "No dispatcher answers: what waits is not sent (`astronn-stream dispatcher`)."
        for stage in STAGES:
            if not status.serving(QUEUES[stage][-1]):
                yield f"No {stage} worker lives (`astronn-stream worker {stage}`)."
        if versions := _versions(status):
            yield f"Different versions of the software are at work: {versions} (docs/farm.md)."
        if any(worker.wire != WIRE for worker in status.workers.values()):
            yield "Some know other messages than this version, so that nothing is sent to them."
        yield from _settings_that_differ(status)
        if missing := _unserved_weights(status):
            yield (
                f"The dispatcher has jobs for the weights {missing}, which no inference worker "
                "serves: start both with the same ASTRONN_STREAM_MODEL and ALSO_MODELS."
            )
        if status.strangers:
            yield (
                f"Results came that are no job's of this database: {status.strangers}; they "
                "changed nothing (docs/reliability.md)."
            )
        if status.set_aside:
            yield (
                f"Workers set aside what is no message: {status.set_aside} "
                "(`astronn-stream status --set-aside`)."
            )
        if (status.oldest_queued_seconds or 0) > RATE_SECONDS and not status.rows_per_second():
            yield "Spectra are on their way, but no row was written in the last minute."
    for queue, mark in status.marks.items():
        if status.queues.get(queue, 0) >= mark:
            yield "Inference is behind: loaders of bulk pause."
    if (status.oldest_live_seconds or 0) > settings.job_seconds:
        yield f"A live spectrum has waited for {status.oldest_live_seconds:.0f} s."
    if status.other_weights:
        yield f"Jobs for weights that this stack does not serve wait: {status.other_weights}."


def _versions(status: Status) -> str:
    """Who is of which version, where there are several."""
    named = {name: worker.version for name, worker in status.workers.items()}
    if status.dispatcher_version is not None:
        named["dispatcher"] = status.dispatcher_version
    return _differences(named)


def _differences(values: Mapping[str, str]) -> str:
    """Who has which value, by name; nothing where all have the same."""
    owners: dict[str, list[str]] = {}
    for name, value in values.items():
        owners.setdefault(value, []).append(name)
    if len(owners) < 2:
        return ""
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in sorted(owners.items()))


def _settings_that_differ(status: Status) -> Iterator[str]:
    """What makes labels differ from worker to worker, a sentence each."""
    for setting in sorted({each for worker in status.workers.values() for each in worker.settings}):
        told = status.workers.items()
        values = {name: each.settings[setting] for name, each in told if setting in each.settings}
        if different := _differences(values):
            yield f"Workers make different labels, by {PREFIX}{setting}: {different}."


def _unserved_weights(status: Status) -> str:
    """The dispatcher's weights that none of the inference workers that live serves."""
    served = {weights for each in status.workers.values() for weights in each.weights}
    missing = [each for each in status.open_by_weights if each not in served]
    return ", ".join(each[:12] for each in missing) if served else ""
