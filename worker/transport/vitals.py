"""What workers report in Redis for `status` and `metrics`: that they live, and their figures.

The processing does not depend on it. A worker says that it lives at each of its heartbeats; spectra
that pass a stage are counted once a message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, cast

import redis

from worker.messages import WIRE
from worker.redis_keys import SPECTRA, STRANGERS, WORKER
from worker.transport.connection import reachable
from worker.version import software_version

#: Celery's workers have a heartbeat every two seconds.
_WORKER_SECONDS = 10
_INTERVAL = 10
_INTERVALS = 6
#: How long results that were no job's here stay a problem that `status` names.
STRANGERS_SECONDS = 86_400
#: The time over which rates are taken.
RATE_SECONDS = _INTERVAL * _INTERVALS


def tell_worker(client: redis.Redis, name: str, vitals: Mapping[str, Any]) -> None:
    """Say that a worker of this version lives, and what it has to say besides.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    ours = {"version": software_version(), "wire": WIRE}
    with reachable("Redis"):
        client.set(WORKER + name, json.dumps({**ours, **vitals}), ex=_WORKER_SECONDS)


def living_workers(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """The vitals of the workers that live, by name.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"):
        keys = sorted(cast(list[bytes], list(client.scan_iter(f"{WORKER}*", count=1000))))
        values = cast(list[bytes | None], client.mget(keys)) if keys else []
    return {
        key.decode().removeprefix(WORKER): json.loads(value)
        for key, value in zip(keys, values, strict=True)
        if value is not None
    }


def count_spectra(client: redis.Redis, task: str, number: int) -> None:
    """Count what a task has served: for ever, and in a short interval, of which rates are made.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    interval = _interval_key(task, int(time.time()) // _INTERVAL)
    with reachable("Redis"), client.pipeline(transaction=False) as pipeline:
        pipeline.hincrby(SPECTRA, task, number)
        pipeline.incrby(interval, number)
        pipeline.expire(interval, RATE_SECONDS + 3 * _INTERVAL)
        pipeline.execute()


def served_spectra(client: redis.Redis) -> dict[str, int]:
    """How many spectra each task has served since Redis began.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"):
        counts = cast(dict[bytes, bytes], client.hgetall(SPECTRA))
    return {task.decode(): int(number) for task, number in counts.items()}


def count_strangers(client: redis.Redis, number: int) -> None:
    """Count results that were no job's here; a day after the last one they are forgotten.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"), client.pipeline(transaction=False) as pipeline:
        pipeline.incrby(STRANGERS, number)
        pipeline.expire(STRANGERS, STRANGERS_SECONDS)
        pipeline.execute()


def strangers_counted(client: redis.Redis) -> int:
    """How many results came that were no job's here.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    with reachable("Redis"):
        return int(cast(bytes | None, client.get(STRANGERS)) or 0)


def rate(client: redis.Redis, task: str) -> float:
    """Spectra per second that a task has served in about the last minute.

    Raises
    ------
    TransientError
        Redis does not answer.
    """
    moment = time.time()
    current = int(moment) // _INTERVAL
    keys = [_interval_key(task, current - back) for back in range(_INTERVALS + 1)]
    with reachable("Redis"):
        counts = cast(list[bytes | None], client.mget(keys))
    return sum(int(count or 0) for count in counts) / (RATE_SECONDS + moment % _INTERVAL)


def _interval_key(task: str, interval: int) -> str:
    return f"{SPECTRA}:{task}:{interval}"
