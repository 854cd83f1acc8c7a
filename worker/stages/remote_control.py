"""What a worker does when it is told to by way of Redis: it answers questions, and no more.

Whoever reaches Redis can send Celery's control commands, and would stop workers or take their
queues away.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

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


def refuse_commands(**_: Any) -> None:
    """Answer questions alone from now on, in this process."""
    from celery.worker.control import Panel

    for name in Panel.data.keys() - ANSWERED:
        Panel.data[name] = partial(_refuse, name)


def _refuse(name: str, /, *_: Any, **__: Any) -> dict[str, str]:
    logger.warning("action=refuse_command command=%s", name)
    return {"error": f"Workers of astronn-stream do not take the command {name}."}
