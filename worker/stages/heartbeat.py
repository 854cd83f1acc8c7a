"""What a worker reports at each of Celery's heartbeats."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery.signals import heartbeat_sent

from worker.errors import TransientError
from worker.stages.process import this_process
from worker.transport.vitals import count_spectra, tell_worker


def beat(sender: Any, **_: Any) -> None:
    """Say that the worker lives and which queues it serves; its name tells neither."""
    process = this_process()
    queues = sorted(sender.eventer.app.amqp.queues.consume_from)
    with suppress(TransientError):  # Celery itself waits for Redis, and says so
        tell_worker(process.client, sender.eventer.hostname, {"queues": queues, **process.vitals()})


heartbeat_sent.connect(beat)


def count(task: str, spectra: int) -> None:
    """Count what a task has served; nothing waits for a Redis that does not answer."""
    with suppress(TransientError):
        count_spectra(this_process().client, task, spectra)
