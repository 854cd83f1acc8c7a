"""What Celery's log leaves out, since the stream says it once and in its own words."""

from __future__ import annotations

import logging

from celery.app.trace import LOG_RECEIVED, LOG_REJECTED, LOG_RETRY
from celery.worker.consumer.consumer import CONNECTION_ERROR, CONNECTION_RETRY

from worker.errors import TransientError
from worker.outage import Outage
from worker.transport.refusal import is_away, why_away

#: The tasks tell an outage once; Celery would tell it of each message, again and again.
_OF_EACH_MESSAGE = {LOG_RECEIVED, LOG_RETRY, LOG_REJECTED}


def tell_once() -> None:
    """Let this process log what a worker waits for once for each reason, not at each try."""
    about_redis = _OutagesOnce()
    logging.getLogger("celery.worker.consumer.consumer").addFilter(about_redis)
    logging.getLogger("celery.worker.consumer.connection").addFilter(about_redis)
    logging.getLogger("celery.worker.request").addFilter(_without_traceback)
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).addFilter(lambda record: record.msg not in _OF_EACH_MESSAGE)
    # Of each lost connection Celery also tells what Celery 6 will do of it.
    logging.getLogger("py.warnings").addFilter(
        lambda record: "CPendingDeprecationWarning" not in record.getMessage()
    )


class _OutagesOnce(logging.Filter):
    """Tells of Celery's lost connections as an outage, and when there is one again."""

    def __init__(self) -> None:
        super().__init__()
        self._outage = Outage("worker")
        self._is_away = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == "Connected to %s":
            self._outage.end()
            self._is_away = False
        if record.msg != CONNECTION_ERROR and CONNECTION_RETRY not in (record.args or ()):
            return True
        self._tell(next(each for each in record.args or () if isinstance(each, Exception)))
        return False

    def _tell(self, error: Exception) -> None:
        known, self._is_away = self._is_away, is_away(error)
        if not (known and self._is_away):  # for that the network has many words
            self._outage.begin(TransientError(why_away("Redis", error)))


def _without_traceback(record: logging.LogRecord) -> bool:
    """What cannot be acknowledged or given back, since Redis is away, comes back by itself."""
    if str(record.msg).startswith(("Couldn't ack", "Couldn't reject")):
        record.exc_info = None
    return True
