"""A message that is served while Redis takes no writes: its place is free for the next one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Consumer, Queue

from benchmarks.rig.servers import RedisServer, short_folder
from worker.app import app
from worker.transport.broker import UNACKED


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with short_folder() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.kill()


@pytest.mark.parametrize("end", ["ack_log_error", "reject_log_error"])
def test_a_refused_acknowledgement_keeps_no_other_message_out(
    server: RedisServer, end: str
) -> None:
    queue, taken = Queue("any"), list[Any]()
    with app.connection_for_write(server.url) as connection:
        for number in (1, 2):
            connection.default_channel.basic_publish(
                connection.default_channel.prepare_message(str(number)), "", "any"
            )
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        on_message = [lambda _, message: taken.append(message)]
        with Consumer(channel, [queue], callbacks=on_message):
            connection.drain_events(timeout=5)
            assert not channel.qos.can_consume()
            server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
            getattr(taken[0], end)(logging.getLogger(), connection.connection_errors)
            assert channel.qos.can_consume()
            server.client.execute_command("REPLICAOF", "NO", "ONE")
            assert server.client.hlen(UNACKED) == 1, "it comes back in time"
            connection.drain_events(timeout=5)
    assert [message.body for message in taken] == [b"1", b"2"]
