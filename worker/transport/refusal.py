"""Why a Redis cannot be worked with for now, in words that are true of it."""

from __future__ import annotations

import redis

from worker.redis_keys import PROBE

#: What Redis answers begins with one of these where it takes no writes; redis-py cuts some off.
_NO_WRITES = {
    "MISCONF": "it cannot save its data to its disk (MISCONF)",
    "NOREPLICAS": "it has too few replicas (NOREPLICAS)",
}
#: A replica that blocks nobody any more: it has been made one just now.
_DEMOTED = "UNBLOCKED"
#: What Redis raises where it is away, refuses us or refuses writes; all of that may pass.
REDIS_ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.ResponseError)


def why_away(what: str, error: BaseException) -> str:
    """One sentence: that a Redis is away, or what it refuses, and why.

    Parameters
    ----------
    what
        Which Redis; the sentence begins with it.
    """
    if reason := _why_no_writes(error):
        return f"{what} refuses writes: {reason}."
    if isinstance(error, redis.BusyLoadingError):
        return f"{what} is still loading its data."
    return f"{what} {'does not answer' if is_away(error) else 'refuses us'}: {said(error)}."


def said(error: BaseException) -> str:
    """What Redis or the network said, without a full stop.

    Where it wants a password, it says so in other words when another protocol is spoken first.
    """
    text = str(error).rstrip(".")
    return "Authentication required" if text.startswith("HELLO must be called") else text


def is_away(error: BaseException) -> bool:
    """Whether nobody answered, as far as an error tells."""
    refusals = (redis.AuthenticationError, redis.BusyLoadingError, redis.ResponseError)
    return not isinstance(error, refusals)


def _why_no_writes(error: BaseException) -> str | None:
    if isinstance(error, redis.ReadOnlyError) or _DEMOTED in str(error):
        return "it is a read-only replica"
    if isinstance(error, redis.OutOfMemoryError):
        return "its memory is full (maxmemory)"
    return next((why for code, why in _NO_WRITES.items() if code in str(error)), None)


def check_writes(client: redis.Redis) -> None:
    """Write nothing, which Redis refuses as it would refuse a message.

    Raises
    ------
    redis.ConnectionError, redis.TimeoutError, redis.ResponseError
        It is away, or refuses.
    """
    try:
        client.setrange(PROBE, 0, "")
    except redis.exceptions.NoPermissionError:
        return  # who may not write here does not have to
