"""What every task does around its plain function: parse, retry, and lose nothing."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from celery.exceptions import Reject
from celery.signals import worker_init

from worker.app import app, publish
from worker.errors import BusyError, FatalError, StreamError, TransientError, YieldError
from worker.messages import (
    InferSpectra,
    JobNumber,
    LoadSpectra,
    Message,
    NoResult,
    Setback,
    Unread,
    failures_of,
    is_of_our_version,
    jobs_of,
    tickets_of,
)
from worker.outage import Outage
from worker.stages.heartbeat import count
from worker.stages.process import Process, this_process
from worker.stages.remote_control import refuse_commands
from worker.transport.envelope import serve
from worker.transport.patience import end_worker, is_stopping

logger = logging.getLogger(__name__)

worker_init.connect(refuse_commands)

_M = TypeVar("_M", bound=Message)
#: A few words on what was done.
_Said = str | None

#: Well below the visibility timeout: a longer countdown would be delivered again meanwhile.
_LONGEST_COUNTDOWN = 30.0
_WITHOUT_END = sys.maxsize
#: A message whose worker process died this often is dropped; the ledger will miss its jobs.
_LOST_WORKERS = 10
_LOST_WORKER_COUNTDOWN = 1
#: After so many retries, about half a minute, the ledger is told what a message waits for.
_TELLING_RETRY = 7


def task(
    name: str, message_type: type[_M], *, time_limit: float | None = None
) -> Callable[[Callable[[_M, Process], _Said]], Any]:
    """Make a Celery task of a function that takes a message and what its process has.

    The task takes the message's JSON. What is away for now is tried again without end: a
    job's row is promised, not that it comes before the database does. A surprise ends the
    message's spectra as rows without labels, so that they do not wait for ever. Flower shows
    what the function says of its work.

    Parameters
    ----------
    time_limit
        Seconds after which a prefork pool kills the process that runs the task.
    """
    outage = Outage(name)
    serve(name, message_type)

    def register(function: Callable[[_M, Process], _Said]) -> Any:
        @wraps(function)
        def run(self: Any, message: dict[str, Any]) -> _Said:
            if not is_of_our_version(message, message_type):
                return _leave_unread(name, message)
            parsed = message_type.model_validate(message)
            try:
                said = _attempt(name, function, parsed)
            except FatalError as error:
                logger.critical("action=%s: this worker stops: %s", name, error)
                end_worker()
                raise Reject(str(error), requeue=True) from error
            except YieldError as error:
                raise Reject(str(error), requeue=True) from error
            except TransientError as error:
                outage.begin(error)
                _try_again(self, parsed, error)
            outage.end()
            count(name, len(tickets_of(parsed)))
            return said

        return app.task(
            run,
            name=name,
            bind=True,
            time_limit=time_limit,
            max_retries=_LOST_WORKERS,
            default_retry_delay=_LOST_WORKER_COUNTDOWN,
        )

    return register


def _leave_unread(name: str, message: dict[str, Any]) -> str:
    """Let the jobs of a message of another version wait for workers that know it."""
    jobs = Unread(unread=tuple(JobNumber(job=job) for job in jobs_of(message)))
    publish(jobs)
    logger.warning(
        "action=%s jobs=%d: sent back: a message of another version of the software",
        *(name, len(jobs.unread)),
    )
    return "sent back: another version of the software wrote it"


def _attempt(name: str, function: Callable[[_M, Process], _Said], message: _M) -> _Said:
    """Call the function; after an unexpected error its spectra end as rows without labels.

    The error itself goes on to Celery, which logs it and lets Flower show a failure.

    Raises
    ------
    TransientError
        Also for a lack of memory: Celery never acknowledges a task that ends in MemoryError.
    """
    try:
        return function(message, this_process())
    except StreamError:
        raise
    except MemoryError as error:
        raise TransientError(f"A process of the {name} stage is out of memory.") from error
    except Exception as error:
        if isinstance(message, LoadSpectra | InferSpectra):
            failures = failures_of(message.spectra, f"The {name} stage failed: {error!r}.")
            failed = NoResult(weights=message.weights, failures=failures)
            publish(failed, lane=message.lane, about=message.spectra)
        raise


def _try_again(task: Any, message: Message, error: TransientError) -> None:
    """Send the message once more, to be served in a while; or give it back, to stop."""
    if is_stopping():
        raise Reject(str(error), requeue=True) from error
    try:
        _tell_ledger(message, error, task.request.retries)
        task.retry(
            exc=error,
            countdown=_countdown(task.request.retries),
            max_retries=_WITHOUT_END,
            argsrepr=task.request.argsrepr,
        )
    except (TransientError, Reject) as refusal:
        raise Reject(str(refusal), requeue=True) from error


def _tell_ledger(message: Message, error: TransientError, retries: int) -> None:
    """Say in the ledger, once, what keeps a message from being served."""
    if retries != _TELLING_RETRY or isinstance(error, BusyError):
        return
    if isinstance(message, LoadSpectra | InferSpectra):
        failures = failures_of(message.spectra, str(error))
        setback = Setback(weights=message.weights, failures=failures, waiting=False)
        publish(setback, lane=message.lane, about=message.spectra)


def _countdown(retries: int) -> float:
    """Doubling from a quarter of a second, spread so that workers do not return together."""
    delay: float = min(_LONGEST_COUNTDOWN, 0.25 * 2 ** min(retries, 10))
    return delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
