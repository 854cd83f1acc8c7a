"""What a worker reports at each of Celery's heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.signals import heartbeat_sent

from worker.errors import TransientError
from worker.transport.broker import worker_client
from worker.transport.vitals import count_spectra, tell_worker

Vitals = Callable[[], dict[str, Any]]
_tellers: list[Vitals] = []


def also_tell(vitals: Vitals) -> Vitals:
    """Tell what this function returns at each heartbeat of this process's worker."""
    _tellers.append(vitals)
    return vitals


def beat(sender: Any, **_: Any) -> None:
    """Say that the worker lives and which queues it serves; its name tells neither."""
    vitals: dict[str, Any] = {"queues": sorted(sender.eventer.app.amqp.queues.consume_from)}
    for teller in _tellers:
        vitals |= teller()
    with suppress(TransientError):  # Celery itself waits for Redis, and says so
        tell_worker(worker_client(), sender.eventer.hostname, vitals)


heartbeat_sent.connect(beat)


def count(task: str, spectra: int) -> None:
    """Count what a task has served; nothing waits for a Redis that does not answer."""
    with suppress(TransientError):
        count_spectra(worker_client(), task, spectra)
