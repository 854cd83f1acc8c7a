"""The jobs whose messages lie in the broker's Redis."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import uuid
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import redis

from worker.messages import jobs_of
from worker.queues import ALL_QUEUES
from worker.redis_keys import BROKER, DISPATCHER
from worker.transport.connection import reachable
from worker.version import software_version

_HEARTBEAT_SECONDS = 15
#: Where kombu keeps the messages that workers have taken and not acknowledged.
UNACKED = "unacked"
#: What is raised by looking into something that is no message.
_NO_MESSAGE = (
    *(ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Transit:
    """The jobs in the broker: ``queued`` for a worker, or ``held`` by one.

    Of the latter, ``retried`` are those whose message a worker will try again in a moment.
    """

    queued: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()
    retried: frozenset[int] = frozenset()


class Broker:
    """The broker's Redis, as the ledger sees it.

    Every method raises ``TransientError`` while Redis does not answer.
    """

    def __init__(self, client: redis.Redis, url: str) -> None:
        self._client = client
        parts = urlsplit(url)
        # The same host name may be another host elsewhere; a socket of this host is one place.
        place = f"{socket.gethostname()} {parts.path}" if "socket" in parts.scheme else ""
        self._place = place and hashlib.blake2b(place.encode(), digest_size=6).hexdigest()

    def name(self) -> str:
        """Which Redis this is, as far as its URL tells, and which life it leads.

        Redis loses a mark together with the messages, when it restarts empty or is flushed; so
        the name changes, and all that was sent under the old one is known to be lost.
        """
        with reachable("Redis"):
            self._client.set(BROKER, uuid.uuid4().hex, nx=True)
            life = cast(bytes, self._client.get(BROKER) or b"")
        return f"{self._place}:{life.decode()}"

    def is_place_of(self, name: str) -> bool:
        """Whether a name is surely one that this Redis had before."""
        return bool(self._place) and name.startswith(f"{self._place}:")

    def transit(self) -> Transit:
        """All jobs on their way, at one instant.

        A message is acknowledged after its successor was sent, so that at any instant it is
        somewhere; but for the moment in which a worker has taken it from its queue and not
        yet noted it as held.
        """
        with reachable("Redis"), self._client.pipeline(transaction=True) as pipeline:
            for name in ALL_QUEUES:
                pipeline.lrange(name, 0, -1)
            pipeline.hvals(UNACKED)
            *queues, held = pipeline.execute()
        waiting = [_Content.read(content) for queue in queues for content in queue]
        taken = [_Content.read(content) for content in held]
        return Transit(
            queued=frozenset(job for each in waiting for job in each.jobs),
            held=frozenset(job for each in taken for job in each.jobs),
            retried=frozenset(job for each in taken if each.retries for job in each.jobs),
        )

    def backlog(self, queue: str) -> int:
        """How many messages wait in a queue."""
        with reachable("Redis"):
            return self._client.llen(queue)

    def tell_alive(self) -> None:
        """Leave a sign, for ``status``, that a dispatcher looks after this broker: its version."""
        with reachable("Redis"):
            self._client.set(DISPATCHER, software_version(), ex=_HEARTBEAT_SECONDS)


def dispatcher_version(client: redis.Redis) -> str | None:
    """The version of the dispatcher that has left its sign within the last seconds."""
    sign = cast(bytes | None, client.get(DISPATCHER))
    return None if sign is None else sign.decode(errors="replace")


@dataclass(frozen=True)
class _Content:
    """What a message in Redis is about; of nothing where it is not one of ours."""

    jobs: frozenset[int] = frozenset()
    retries: int = 0

    @classmethod
    def read(cls, content: bytes) -> _Content:
        """Unwrap a message as Celery and kombu wrap it.

        One that a worker holds stands in a list with its exchange and its queue. A setback
        alone does not bring its job any further.
        """
        try:
            message: Any = json.loads(content)
            message = message[0] if isinstance(message, list) else message
            headers = message["headers"]
            if headers["task"] == "setback":
                return cls()
            arguments, _, _ = json.loads(base64.b64decode(message["body"]))
            jobs = frozenset(jobs_of(arguments[0]))
            return cls(jobs, int(headers.get("retries") or 0))
        except _NO_MESSAGE:
            return cls()
