"""Sending waits for Redis as long as that takes, but no longer than the worker is to run.

A worker that is told to stop while Redis is away would otherwise wait for threads and child
processes that wait for Redis. What they hold stays noted as held, and comes back.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
from typing import Any

from worker.errors import TransientError
from worker.outage import Outage
from worker.transport.refusal import why_away

#: A page that a worker's child processes share, since only the worker itself is told to stop.
_PAGE = mmap.mmap(-1, mmap.PAGESIZE)
_STOPPING, _FAILED = 0, 1
#: The worker itself: it imports this before it has children.
_WORKER = os.getpid()
#: Below the minute that supervisors give.
_LONGEST_STOP_SECONDS = 50.0
_outage = Outage("publish")


def stop_waiting() -> None:
    """Let nobody in this worker and its child processes wait for Redis any more."""
    _PAGE[_STOPPING] = 1


def end_within_the_grace(**_: Any) -> None:
    """Stop waiting; and end anyhow before a supervisor would kill this worker.

    A Redis that is silent keeps Celery from ending for half a minute at each of its commands.
    """
    stop_waiting()
    end = threading.Timer(_LONGEST_STOP_SECONDS, os._exit, (1,))
    end.daemon = True
    end.start()


def is_stopping() -> bool:
    """Whether this worker was told to stop."""
    return bool(_PAGE[_STOPPING])


def end_worker() -> None:
    """Stop this worker as a signal does, whether Redis answers or not; its status tells of it."""
    _PAGE[_FAILED] = 1
    os.kill(_WORKER, signal.SIGTERM)


def has_failed() -> bool:
    """Whether this worker, or a child process of it, cannot do its work."""
    return bool(_PAGE[_FAILED])


def sent() -> None:
    """Redis took a message."""
    _outage.end()


class WaitOrGiveUp:
    """What kombu calls each time that Redis did not take a message, before it waits."""

    def __call__(self, error: Exception, _interval: float) -> None:
        """Say why; to give up is to raise.

        Raises
        ------
        TransientError
            This worker is to stop.
        """
        away = TransientError(why_away("Redis", error))
        _outage.begin(away)
        if is_stopping():
            raise away from error

    def __json__(self) -> str:
        """Its name, for Flower and others who ask for the settings."""
        return type(self).__name__


#: How kombu tries again to send, in seconds from one try to the next.
TRIES: dict[str, Any] = {
    "max_retries": None,
    "interval_start": 0.1,
    "interval_step": 0.5,
    "interval_max": 3.0,
    "errback": WaitOrGiveUp(),
}
#: Also where a message finds no connection, for which kombu otherwise has four seconds.
CONNECTING = {**TRIES, "connect_retries_timeout": None}
