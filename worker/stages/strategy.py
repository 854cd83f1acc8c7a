"""How a worker takes a message off its queue; named by the tasks as their ``Strategy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default


def careful(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's own strategy, but a message that is no call of a task is dropped.

    Celery drops what it cannot decode or may not; but JSON of another form than it expects
    raises within the worker's loop. That ends the worker, its message goes back to the queue,
    and there it ends the next worker.
    """
    take = default(task, app, consumer, **options)

    def taken(message: Any, *arguments: Any, **names: Any) -> Any:
        try:
            return take(message, *arguments, **names)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidTaskError(f"no call of a task: {error!r}") from error

    return taken
