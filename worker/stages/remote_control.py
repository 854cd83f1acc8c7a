"""What a worker does when it is told to by way of Redis: it answers questions, and no more.

Whoever reaches Redis can send Celery's control commands, and would stop workers or take their
queues away. A worker of ours stops by itself where its work cannot go on, which its pool's
processes have to tell it by the same way; they alone know its word.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from functools import partial
from typing import Any

from celery import Celery
from celery.signals import worker_init

logger = logging.getLogger(__name__)

#: Asked by Flower, by the containers' health checks, by `run` and by `celery inspect`. Not `hello`:
#: it revokes what its sender says.
ANSWERED = frozenset(
    (
        *("active", "active_queues", "clock", "conf", "enable_events", "ping", "query_task"),
        *("registered", "report", "reserved", "revoked", "scheduled", "stats"),
        *("dump_active", "dump_reserved", "dump_revoked", "dump_schedule", "dump_tasks"),
    )
)
#: Made before the pool is forked, so that all processes of a worker have the same, and only they.
_WORD = secrets.token_hex()


def stop_own_worker(app: Celery, hostname: str) -> None:
    """Let the worker stop of which this process is a part, with a status that is not 0.

    Raises
    ------
    kombu.exceptions.OperationalError
        The broker does not answer.
    """
    app.control.broadcast("shutdown", arguments={"word": _WORD}, destination=[hostname])


def refuse_commands(**_: Any) -> None:
    """Answer questions alone from now on, in this process."""
    from celery.worker.control import Panel, shutdown

    def stop(state: Any, word: object = None, **_: Any) -> Any:
        if not hmac.compare_digest(str(word).encode(errors="replace"), _WORD.encode()):
            return _refuse("shutdown")
        return shutdown(state, "its work cannot go on")

    for name in Panel.data.keys() - ANSWERED:
        Panel.data[name] = partial(_refuse, name)
    Panel.data["shutdown"] = stop


worker_init.connect(refuse_commands)


def _refuse(name: str, /, *_: Any, **__: Any) -> dict[str, str]:
    logger.warning("action=refuse_command command=%s", name)
    return {"error": f"Workers of astronn-stream do not take the command {name}."}
