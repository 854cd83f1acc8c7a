"""The one gate through which everything passes that Redis hands to a worker.

kombu parses what it takes off a list as it comes, in the worker's loop; what it or Celery stumbles
over ends the worker. redis-py lets a client look at the answers to a command before kombu does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from worker.errors import TransientError
from worker.queues import ALL_QUEUES
from worker.transport.connection import OwnSocket
from worker.transport.envelope import NoMessageError, unwrapped
from worker.transport.refusal import REDIS_ERRORS, check_writes
from worker.transport.set_aside import SetAside, set_aside

logger = logging.getLogger(__name__)

#: So much of what is set aside stands in the log.
_LOGGED_CHARACTERS = 100


class QoS(kombu_redis.QoS):
    """kombu's, but a message that Redis refuses to let go counts as served here all the same.

    It stays noted as held in Redis and comes back in time. Otherwise its place would never be
    free: a worker that holds one message at a time would take no other, for it asks Redis for
    nothing and so never learns that it has to connect anew.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        with self._free_in_the_end(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give a message back, or let it go."""
        with self._free_in_the_end(delivery_tag):
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]

    @contextmanager
    def _free_in_the_end(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        except REDIS_ERRORS:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class Channel(kombu_redis.Channel):
    """kombu's, but what is no message is set aside, as if nothing had come."""

    QoS = QoS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(  # type: ignore[no-untyped-call]
            asynchronous=asynchronous
        )
        if "path" in parameters:  # kombu has no place to name a class of connections by sockets
            kombus = parameters["connection_class"]
            checked = (kombus, OwnSocket) if asynchronous else (OwnSocket,)
            parameters["connection_class"] = type("Connection", checked, {})
        return parameters

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous=asynchronous)  # type: ignore[no-untyped-call]
        client.set_response_callback("BRPOP", self._pass)
        return client

    def _pass(self, answer: list[bytes] | None, **_: Any) -> tuple[bytes, bytes] | None:
        """A queue's name and its message, where there is one."""
        if not answer:
            return None
        name, content = answer
        queue = name.decode(errors="replace").partition(self.sep)[0]
        if queue not in ALL_QUEUES:
            return name, content
        try:
            return name, unwrapped(content)
        except NoMessageError as error:
            self._set_aside(SetAside.of(queue, content, str(error)))
            return None

    def _set_aside(self, entry: SetAside) -> None:
        logger.error(
            "action=set_aside queue=%s bytes=%d: %s: %s",
            *(entry.queue, entry.size, entry.reason, entry.beginning[:_LOGGED_CHARACTERS]),
        )
        try:
            with self.conn_or_acquire() as client:
                set_aside(client, entry)
        except TransientError as error:
            logger.warning("action=set_aside: it is not kept: %s", error)


class Transport(kombu_redis.Transport):
    """kombu's Redis with the gate; one that refuses is waited for like one that is away.

    Celery ends a worker over an answer that kombu does not count as a lost connection, and
    publishing gives up. So all of Redis' errors count, and there is no connection before Redis
    takes writes: a message that is taken from a full one could not even be noted as held.
    """

    Channel = Channel
    connection_errors = (*kombu_redis.Transport.connection_errors, redis.ResponseError)
    recoverable_connection_errors = connection_errors

    def establish_connection(self) -> Any:
        """Connect, once Redis takes writes; otherwise what it says is raised."""
        connection = super().establish_connection()  # type: ignore[no-untyped-call]
        channel = self._avail_channels[-1]
        try:
            with channel.conn_or_acquire() as client:
                check_writes(client)
        except REDIS_ERRORS:
            self.close_connection(connection)  # type: ignore[no-untyped-call]
            raise
        return connection
