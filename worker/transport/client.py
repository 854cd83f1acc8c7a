"""A client of the broker's redis-server, beside Celery's connections."""

from __future__ import annotations

import ssl

import redis

from worker.errors import FatalError
from worker.settings import Settings, redis_py_url
from worker.transport.connection import check_broker, client_of
from worker.transport.refusal import said


def broker_client(settings: Settings) -> redis.Redis:
    """A client of the broker's redis-server, for looking at it.

    Raises
    ------
    FatalError
        The folder of the local stack is not this user's own, or the redis-server is there but
        does not let us in.
    """
    client = waiting_client(settings)
    _check_welcome(client)
    return client


def waiting_client(settings: Settings) -> redis.Redis:
    """The same for who waits for a redis-server, also until that lets us in.

    Raises
    ------
    FatalError
        The folder of the local stack is not this user's own.
    """
    check_broker(settings.broker)
    # A server that does not speak TLS would let us wait for ever.
    return client_of(redis_py_url(settings.broker), socket_connect_timeout=3, socket_timeout=10)


def _check_welcome(client: redis.Redis) -> None:
    """Tell a redis-server that refuses us, which takes an operator, from one that is away."""
    try:
        client.ping()
    except (redis.AuthenticationError, redis.ResponseError) as error:
        if _cannot_write(error):
            return  # it can be looked at, and that passes
        raise _refused(f"Redis refuses us: {said(error)}") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        cause = error.__context__
        tls = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
        if tls and isinstance(cause, ssl.SSLError | FileNotFoundError):
            reason = getattr(cause, "verify_message", None) or cause.strerror
            raise _refused(f"No TLS connection to Redis: {reason}") from error


def _cannot_write(error: redis.RedisError) -> bool:
    """Whether Redis refuses, even a ping, because its disk is full or the like."""
    return str(error).startswith("MISCONF")


def _refused(what: str) -> FatalError:
    return FatalError(
        f"{what.rstrip('.')}; see the user, the password and the ssl_ parameters in "
        "ASTRONN_STREAM_BROKER_URL."
    )


def broker_answers(settings: Settings) -> bool:
    """Whether a redis-server answers at the broker's URL."""
    client = broker_client(settings)
    try:
        return answers(client)
    finally:
        client.close()


def answers(client: redis.Redis) -> bool:
    """Whether this redis-server answers a ping, or is only kept from writing."""
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    except redis.ResponseError as error:
        return _cannot_write(error)
