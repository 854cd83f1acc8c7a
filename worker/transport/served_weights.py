"""Which weights a stack serves, as its dispatcher says in Redis.

So a command in another terminal need not be told, and opens no jobs that would wait in vain.
"""

from __future__ import annotations

from typing import cast

import redis

from worker.redis_keys import WEIGHTS
from worker.transport.connection import reachable

#: The dispatcher repeats it every few seconds.
_SECONDS = 15


def tell_served(client: redis.Redis, *weights: str) -> None:
    """Say that the stack of this Redis serves the weights with these SHA-256.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"):
        client.set(WEIGHTS, " ".join(weights), ex=_SECONDS)


def served_weights(client: redis.Redis) -> tuple[str, ...]:
    """The SHA-256 of the weights that the stack of this Redis serves; of none where none runs.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"):
        said = cast(bytes | None, client.get(WEIGHTS))
    return tuple((said or b"").decode().split())
