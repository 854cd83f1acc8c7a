"""What lay in the queues and was no message of ours: the newest of it, kept in Redis."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import cast

import redis

from worker.redis_keys import SET_ASIDE
from worker.text import printable
from worker.transport.connection import reachable

_MOST_ENTRIES = 1000
_MOST_CHARACTERS = 1000


@dataclass(frozen=True)
class SetAside:
    """Something that was no message: when and where it was taken, and how it begins."""

    moment: str
    queue: str
    reason: str
    size: int
    beginning: str

    @classmethod
    def of(cls, queue: str, content: bytes, reason: str) -> SetAside:
        """What is kept of it: one line of each, whatever it holds."""
        beginning = content[:_MOST_CHARACTERS].decode(errors="backslashreplace")
        return cls(
            datetime.now(UTC).isoformat(timespec="seconds"),
            queue,
            printable(reason[:_MOST_CHARACTERS]),
            len(content),
            printable(beginning[:_MOST_CHARACTERS]),
        )


def set_aside(client: redis.Redis, entry: SetAside) -> None:
    """Keep it; the oldest goes where there are too many.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"), client.pipeline() as pipeline:
        pipeline.lpush(SET_ASIDE, json.dumps(asdict(entry)))
        pipeline.ltrim(SET_ASIDE, 0, _MOST_ENTRIES - 1)
        pipeline.execute()


def number_set_aside(client: redis.Redis) -> int:
    """How much is kept; raises ``TransientError`` while Redis does not answer."""
    with reachable("Redis"):
        return client.llen(SET_ASIDE)


def all_set_aside(client: redis.Redis) -> list[SetAside]:
    """What is kept, newest first; raises ``TransientError`` while Redis does not answer."""
    with reachable("Redis"):
        kept = cast(list[bytes], client.lrange(SET_ASIDE, 0, -1))
    return [SetAside(**json.loads(each)) for each in kept]


def forget_set_aside(client: redis.Redis) -> None:
    """Let it go; raises ``TransientError`` while Redis does not answer."""
    with reachable("Redis"):
        client.delete(SET_ASIDE)
