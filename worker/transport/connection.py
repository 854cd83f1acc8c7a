"""Connections to Redis other than Celery's own, and what their failures mean."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from worker.errors import FatalError, TransientError
from worker.transport.private_folder import check_socket
from worker.transport.refusal import REDIS_ERRORS, why_away


class OwnSocket(redis.UnixDomainSocketConnection):
    """A connection by a unix socket that is checked each time: its folder may have changed hands.

    One that is not ours is as good as none, and may pass.
    """

    def _connect(self) -> Any:
        try:
            check_socket(Path(self.path))
        except FatalError as error:
            raise PermissionError(errno.EACCES, str(error)) from error
        return super()._connect()  # type: ignore[no-untyped-call]


def check_broker(url: str) -> None:
    """Tell at once, as an error of the operator's to mend, what a connection would wait for.

    Raises
    ------
    FatalError
        See :func:`check_socket`.
    """
    parts = urlsplit(url)
    if "socket" in parts.scheme:
        check_socket(Path(parts.netloc + parts.path))


def client_of(url: str, **options: Any) -> redis.Redis:
    """A client of redis-py, which refuses a foreign socket; it connects on first use."""
    if url.startswith("unix:"):
        options["connection_class"] = OwnSocket
    return redis.Redis.from_url(url, **options)


def connect(url: str) -> redis.Redis:
    """A client that notices a dead connection; it connects on first use."""
    # redis-py refuses keep-alive on a unix socket, which has no need of it.
    network = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return client_of(
        url, health_check_interval=25, socket_timeout=30, socket_connect_timeout=5, **network
    )


@contextmanager
def reachable(what: str) -> Iterator[None]:
    """Turn the failures of Redis into ``TransientError``: all of them may pass."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise TransientError(why_away(what, error)) from error
