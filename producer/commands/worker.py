"""The command `worker`: one worker of one stage."""

from __future__ import annotations

import logging
import re
from importlib import import_module
from typing import Annotated

import typer

from producer.commands.options import tell_starter
from producer.commands.screen import tell_error
from worker.errors import FatalError, UsageError
from worker.local.stack import EXIT_MISCONFIGURED
from worker.queues import Lane, Stage
from worker.settings import get_settings
from worker.transport.connection import check_broker


def worker(
    stage: Annotated[Stage, typer.Argument(help="The stage whose queues it serves.")],
    lane: Annotated[
        Lane | None,
        typer.Option("--lane", help="Serve only this lane; for loaders."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="The worker's name, needed where a host has several of one stage."
        ),
    ] = None,
) -> None:
    """Run one worker, configured by the environment, as docker-compose.yml starts it.

    A signal to stop (SIGTERM or Ctrl-C) lets it finish what it is at and give back the rest.
    """
    if lane is not None and stage != "load":
        raise UsageError(f"A lane can be left to a loader; {stage} serves all of them.")
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise UsageError("--name takes letters, digits, points, hyphens and underscores.")
    try:
        _prepare(stage)
    except (FatalError, UsageError) as error:
        # The last line of a worker's log is what the local stack shows.
        tell_error(error)
        raise typer.Exit(EXIT_MISCONFIGURED) from error
    from celery.app.trace import LOG_RECEIVED, LOG_REJECTED, LOG_RETRY

    from worker.app import app, task_module, worker_arguments

    # No other stage's, which would only cost time; and not by Celery, which would look for
    # whatever that module imports in the current folder first.
    import_module(task_module(stage))
    app.conf.include = ()
    # The tasks tell an outage once; Celery would tell it of each message, again and again.
    told = {LOG_RECEIVED, LOG_RETRY, LOG_REJECTED}
    for logs in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(logs).addFilter(lambda record: record.msg not in told)
    # Celery tells of each lost connection in one line, and then of what Celery 6 will do of it.
    logging.getLogger("py.warnings").addFilter(
        lambda record: "CPendingDeprecationWarning" not in record.getMessage()
    )
    app.worker_main(worker_arguments(stage, lane, name))


def _prepare(stage: Stage) -> None:
    """Open what the stage needs, so that a mistake stops the worker before it takes messages."""
    from worker.stages.process import this_process

    check_broker(get_settings().broker)
    match stage:
        case "infer":
            tell_starter(this_process().inference.weights)
        case "record":
            this_process().noise_model("")
