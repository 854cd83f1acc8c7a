"""The threads of the CPU's engine."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_R = TypeVar("_R")
_Work = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Threads:
    """Threads that take work as long as anyone gives some; they end with this object.

    Those of ``concurrent.futures`` refuse it from the moment at which the interpreter begins to
    end. Then the tasks that a worker was told to drop are still being finished, and spectra would
    end as rows without labels.
    """

    def __init__(self, number: int, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        for each in range(number):
            threading.Thread(
                target=_serve, args=(self._work,), name=f"{name}-{each}", daemon=True
            ).start()
        weakref.finalize(self, _end, self._work, number).atexit = False

    def submit(self, function: Callable[..., _R], *arguments: Any) -> Future[_R]:
        """Let one of the threads call a function, the first that has time."""
        future: Future[_R] = Future()
        self._work.put((future, function, arguments))
        return future


def _serve(queue: SimpleQueue[_Work | None]) -> None:
    while (work := queue.get()) is not None:
        future, function, arguments = work
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - it belongs to whom the result belongs to
            future.set_exception(error)
        del work, future, function, arguments  # what they hold shall not outlive them here


def _end(queue: SimpleQueue[_Work | None], number: int) -> None:
    for _ in range(number):
        queue.put(None)
