"""What is on its way: the jobs whose messages lie in the broker's Redis."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

import redis

from worker.app import QUEUES
from worker.redis_connection import connect, reachable
from worker.settings import get_settings, redis_py_url

_MARK = "astronn-stream:broker"
_HEARTBEAT = "astronn-stream:dispatcher"
_HEARTBEAT_SECONDS = 15
#: Where kombu keeps the messages that workers have taken and not acknowledged.
UNACKED = "unacked"


@dataclass(frozen=True)
class Transit:
    """The jobs in the broker: ``queued`` for a worker, or ``held`` by one."""

    queued: frozenset[int]
    held: frozenset[int]


class Broker:
    """The broker's Redis, as the ledger sees it.

    Every method raises ``TransientError`` while Redis does not answer.
    """

    def __init__(self, client: redis.Redis, url: str) -> None:
        self._client = client
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[2]}{parts.path}{parts.query}"
        self._place = hashlib.blake2b(place.encode(), digest_size=6).hexdigest()

    @property
    def place(self) -> str:
        """Which Redis this is: a digest of its URL without user and password."""
        return self._place

    def name(self) -> str:
        """Which Redis this is and which life it leads.

        Redis loses a mark together with the messages, when it restarts empty or is flushed; so
        the name changes, and all that was sent under the old one is known to be lost.
        """
        with reachable("Redis"):
            self._client.set(_MARK, uuid.uuid4().hex, nx=True)
            life = cast(bytes, self._client.get(_MARK) or b"")
        return f"{self._place}:{life.decode()}"

    def transit(self) -> Transit:
        """All jobs on their way, at one instant.

        A message is acknowledged after its successor was sent, so that at any instant it is
        somewhere; but for the moment in which a worker has taken it from its queue and not
        yet noted it as held.
        """
        names = [name for queues in QUEUES.values() for name in queues]
        with reachable("Redis"), self._client.pipeline(transaction=True) as pipeline:
            for name in names:
                pipeline.lrange(name, 0, -1)
            pipeline.hvals(UNACKED)
            *queues, held = pipeline.execute()
        return Transit(
            queued=frozenset(
                job for queue in queues for content in queue for job in _jobs(content)
            ),
            held=frozenset(job for content in held for job in _jobs(content)),
        )

    def backlog(self, queue: str) -> int:
        """How many messages wait in a queue."""
        with reachable("Redis"):
            return self._client.llen(queue)

    def tell_alive(self) -> None:
        """Leave a sign, for ``status``, that a dispatcher looks after this broker."""
        with reachable("Redis"):
            self._client.set(_HEARTBEAT, b"1", ex=_HEARTBEAT_SECONDS)


def dispatcher_answers(client: redis.Redis) -> bool:
    """Whether a dispatcher has left its sign within the last seconds."""
    return bool(client.exists(_HEARTBEAT))


@lru_cache(maxsize=1)
def worker_broker() -> Broker:
    """The broker of this process's settings."""
    url = get_settings().broker
    return Broker(connect(redis_py_url(url)), url)


def _jobs(content: bytes) -> Iterator[int]:
    """The jobs of a message as Celery and kombu wrap it; none where it is not one of ours.

    A message that a worker holds stands in a list with its exchange and its queue.
    """
    try:
        message: Any = json.loads(content)
        message = message[0] if isinstance(message, list) else message
        arguments, _, _ = json.loads(base64.b64decode(message["body"]))
        parts = arguments[0]
        for part in ("spectra", "results", "failures"):
            yield from (each["job"] for each in parts.get(part, ()))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return
