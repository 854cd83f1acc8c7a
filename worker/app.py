"""The Celery application: its settings, its queues, and how a message is published.

``celery -A worker.app worker -Q ...`` works as operators know it; ``astronn-stream worker
STAGE`` does the same with the right queues and pool. The settings are read from the
environment when Celery first needs them, not at import. ``docs/decisions.md`` gives the
reasons for each Celery setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES

from worker.errors import TransientError
from worker.messages import (
    AnyMessage,
    InferSpectra,
    LoadSpectra,
    NoResult,
    RecordLabels,
    Setback,
    SpectrumReference,
    Unread,
    tickets_of,
)
from worker.queues import QUEUES, STAGES, Lane, Stage, lane_queue
from worker.settings import Settings, get_settings
from worker.transport.patience import TRIES, sent
from worker.transport.refusal import why_away
from worker.transport.task_text import task_text

#: Seconds after which Redis hands a message that a dead worker held to another one.
VISIBILITY_TIMEOUT = 300


def _celery_settings() -> dict[str, Any]:
    settings = get_settings()
    return {
        "broker_url": settings.broker,
        "include": [task_module(stage) for stage in STAGES],
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": True,
        "task_default_queue": "load.bulk",
        "task_create_missing_queues": True,
        "task_publish_retry_policy": TRIES,
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": 200,
        "worker_hijack_root_logger": True,
        "worker_lost_wait": 1.0,
        "broker_pool_limit": settings.infer_threads + 4,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "queue_order_strategy": "priority",
            "socket_keepalive": True,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "health_check_interval": 25,
        },
    }


# For kombu takes its transport by the scheme of a URL, whatever Celery's settings say of it.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "worker.transport.gate:Transport"))
app = Celery("astronn-stream")
app.add_defaults(_celery_settings)


def connect_to(settings: Settings) -> None:
    """Let this process publish to the broker of these settings, not of its environment's.

    Before its first message: connections that are open stay.
    """
    app.conf.broker_url = settings.broker


def publish(
    message: AnyMessage,
    *,
    lane: Lane = "bulk",
    patient: bool = True,
    about: Sequence[SpectrumReference] = (),
) -> None:
    """Send a message to its stage; returns once the broker has it.

    Flower shows which spectra it is about as the task's arguments.

    Parameters
    ----------
    lane
        How urgent it is to record this; messages to the other stages know their own.
    patient
        Wait for a broker that is away, as long as that takes.
    about
        Where the message has the spectra's numbers alone: what names their files.

    Raises
    ------
    TransientError
        The broker does not answer or refuses; where that is waited for, this worker is to stop.
    """
    task, queue = _route(message, lane)
    try:
        app.send_task(
            task,
            args=(message.model_dump(mode="json"),),
            queue=queue,
            argsrepr=task_text(tickets_of(message), about),
            retry=patient,
        )
    except OperationalError as error:
        raise TransientError(why_away("The broker", error.__cause__ or error)) from error
    sent()


def _route(message: AnyMessage, urgency: Lane) -> tuple[str, str]:
    """The task and the queue of a message."""
    recorder = lane_queue("record", urgency)
    match message:
        case LoadSpectra(lane=lane):
            return "load", lane_queue("load", lane)
        case InferSpectra(lane=lane):
            return "infer", lane_queue("infer", lane)
        case RecordLabels():
            return "record", recorder
        case NoResult():
            return "no_result", recorder
        case Setback():
            return "setback", recorder
        case Unread():
            return "unread", recorder


def task_module(stage: Stage) -> str:
    """The module that defines a stage's tasks; its name alone, so that nothing is imported."""
    return f"worker.stages.{stage}"


def worker_arguments(stage: Stage, lane: Lane | None = None, name: str | None = None) -> list[str]:
    """What follows ``celery -A worker.app`` for a worker of this stage.

    Parameters
    ----------
    lane
        Serve only this lane of the stage.
    name
        What the worker is called, before ``@host``, where a host has several of a kind.
    """
    settings = get_settings()
    name = name or (stage if lane is None else f"{stage}-{lane}")
    queues = QUEUES[stage] if lane is None else (lane_queue(stage, lane),)
    loaders = settings.loaders if lane != "live" else 1  # visits come a few at a time
    pools: dict[Stage, list[str]] = {
        "load": ["--pool=prefork", f"--concurrency={loaders}"],
        # The device has one thread; these wait for their share of a batch.
        "infer": ["--pool=threads", f"--concurrency={settings.infer_threads}"],
        "record": ["--pool=threads", "--concurrency=1"],
    }
    return [
        "worker",
        f"--queues={','.join(queues)}",
        f"--hostname={name}@%h",
        *pools[stage],
        "--without-gossip",
        "--without-mingle",
        "--loglevel=INFO",
    ]
