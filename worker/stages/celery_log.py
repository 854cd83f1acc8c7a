"""What Celery's log leaves out, since the stream says it once and in its own words."""

from __future__ import annotations

import logging

from celery.app.trace import LOG_RECEIVED, LOG_REJECTED, LOG_RETRY
from celery.worker.consumer.consumer import CONNECTION_ERROR, CONNECTION_RETRY

from worker.errors import TransientError
from worker.outage import Outage
from worker.transport.refusal import why_away

#: The tasks tell an outage once; Celery would tell it of each message, again and again.
_OF_EACH_MESSAGE = {LOG_RECEIVED, LOG_RETRY, LOG_REJECTED}


def tell_once() -> None:
    """Let this process log what a worker waits for once for each reason, not at each try."""
    outage = Outage("worker")

    def about_redis(record: logging.LogRecord) -> bool:
        if record.msg == "Connected to %s":
            outage.end()
        is_lost = record.msg == CONNECTION_ERROR or CONNECTION_RETRY in (record.args or ())
        if is_lost:
            error = next(each for each in record.args or () if isinstance(each, Exception))
            outage.begin(TransientError(why_away("Redis", error)))
        return not is_lost

    logging.getLogger("celery.worker.consumer.consumer").addFilter(about_redis)
    logging.getLogger("celery.worker.consumer.connection").addFilter(about_redis)
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).addFilter(lambda record: record.msg not in _OF_EACH_MESSAGE)
    # Of each lost connection Celery also tells what Celery 6 will do of it.
    logging.getLogger("py.warnings").addFilter(
        lambda record: "CPendingDeprecationWarning" not in record.getMessage()
    )
