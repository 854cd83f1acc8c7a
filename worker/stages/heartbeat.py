"""What a worker reports at each of Celery's heartbeats."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery.signals import heartbeat_sent

from worker.errors import TransientError
from worker.settings import Settings
from worker.stages.process import this_process
from worker.transport.vitals import count_spectra, tell_worker

_MAKE_LABELS = (("load", "coadd_mask"), ("infer", "mc_samples"), ("infer", "seed"))


def beat(sender: Any, **_: Any) -> None:
    """Say that the worker lives and which queues it serves; its name tells neither."""
    process = this_process()
    queues = sorted(sender.eventer.app.amqp.queues.consume_from)
    vitals = {
        "queues": queues,
        "settings": _of_labels(queues, process.settings),
        **process.vitals(),
    }
    with suppress(TransientError):  # Celery itself waits for Redis, and says so
        tell_worker(process.client, sender.eventer.hostname, vitals)


def _of_labels(queues: list[str], settings: Settings) -> dict[str, str]:
    """The settings on which this worker's part of the labels depends."""
    stages = {queue.partition(".")[0] for queue in queues}
    names = [name for stage, name in _MAKE_LABELS if stage in stages]
    return {name.upper(): str(getattr(settings, name)) for name in names}


heartbeat_sent.connect(beat)


def count(task: str, spectra: int) -> None:
    """Count what a task has served; nothing waits for a Redis that does not answer."""
    with suppress(TransientError):
        count_spectra(this_process().client, task, spectra)
