"""Connections to Redis other than Celery's own, and what their failures mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from worker.errors import TransientError
from worker.transport.refusal import REDIS_ERRORS, why_away


def connect(url: str) -> redis.Redis:
    """A client that notices a dead connection; it connects on first use."""
    # redis-py refuses keep-alive on a unix socket, which has no need of it.
    network = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        url, health_check_interval=25, socket_timeout=30, socket_connect_timeout=5, **network
    )


@contextmanager
def reachable(what: str) -> Iterator[None]:
    """Turn the failures of Redis into ``TransientError``: all of them may pass."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise TransientError(why_away(what, error)) from error
