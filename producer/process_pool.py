"""Sharing out a command's work among processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from worker.errors import FatalError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class LostProcessError(Exception):
    """A process that shared the work was killed."""


def check_semaphores() -> None:
    """Make sure that processes can share semaphores, which on Linux lie in /dev/shm.

    Raises
    ------
    FatalError
        They cannot.
    """
    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FatalError(
            f"Processes cannot share the work here, as /dev/shm cannot be written: {reason}."
        ) from error


def shared_out(
    function: Callable[[_Item], _Result], items: Sequence[_Item], processes: int
) -> Generator[_Result]:
    """The function's result for each item, in order, computed by some processes.

    Each process has a pipe of its own, which ends with it: one that is killed while it sends a
    large result is noticed, where ``concurrent.futures`` would wait for the rest for ever. A
    process that is ahead waits until its results are taken, so few of them are in memory.

    Raises
    ------
    LostProcessError
        A process was killed.
    Exception
        What the function raises.
    """
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    try:
        for first in range(processes):
            mine, theirs = context.Pipe(duplex=False)
            worker = context.Process(
                target=_work, args=(function, items[first::processes], theirs), daemon=True
            )
            worker.start()
            theirs.close()  # now the worker alone holds it
            pipes.append(mine)
            workers.append(worker)
        for number in range(len(items)):
            yield _received(pipes[number % processes])
    finally:
        for worker, pipe in zip(workers, pipes, strict=True):
            worker.kill()
            worker.join()
            pipe.close()


def _received(pipe: Connection) -> Any:
    try:
        result = pipe.recv()
    except (EOFError, OSError) as error:
        raise LostProcessError from error
    if isinstance(result, Exception):
        raise result
    return result


def _work(function: Callable[[_Item], _Result], items: Sequence[_Item], pipe: Connection) -> None:
    depend_on_parent()
    for item in items:
        try:
            pipe.send(function(item))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is wanted
            pipe.send(error)


def depend_on_parent() -> None:
    """Leave interruptions to the parent process, and end with it however it ends.

    The initializer of a pool of processes: those of ``concurrent.futures`` would wait for work
    for ever after their parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
