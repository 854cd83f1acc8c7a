"""The command `worker`: one worker of one stage."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Annotated

import typer

from producer.commands.notice import tell_weights
from producer.commands.screen import tell_error
from producer.process_pool import check_semaphores
from worker.errors import FatalError, UsageError
from worker.local.stack import EXIT_MISCONFIGURED
from worker.queues import Lane, Stage
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
    from worker.app import worker_arguments

    raise typer.Exit(_serve(stage, worker_arguments(stage, lane, name)))


def _serve(stage: Stage, arguments: list[str]) -> int:
    """Serve until told to stop; the exit status, 0 only then."""
    from celery.bin.celery import celery
    from celery.signals import worker_shutting_down

    from worker.app import app, task_module
    from worker.stages.celery_log import tell_once
    from worker.transport.patience import CONNECTING, end_within_the_grace, has_failed

    # No other stage's, which would only cost time; and not by Celery, which would look for
    # whatever that module imports in the current folder first.
    import_module(task_module(stage))
    app.conf.include = ()
    app.conf.broker_transport_options |= CONNECTING
    tell_once()
    worker_shutting_down.connect(end_within_the_grace)
    celery.params[0].default = app  # app.worker_main does the same, and loses the status
    status = celery.main(args=arguments, standalone_mode=False)
    return status or int(has_failed())


def _prepare(stage: Stage) -> None:
    """Open what the stage needs, so that a mistake stops the worker before it takes messages."""
    from worker.stages.process import this_process

    process = this_process()
    check_broker(process.settings.broker)
    match stage:
        case "load":
            check_semaphores()  # its processes take turns
        case "infer":
            tell_weights(process.inference.weights)
        case "record":
            from worker.results.noise_model import read_noise_model

            settings = process.settings
            for file in settings.corrections_files(""):
                if read_noise_model(file).weights_sha256 is None and file != settings.corrections:
                    raise FatalError(
                        f"The noise model {file} names no weights, as those of "
                        "ASTRONN_STREAM_ALSO_CORRECTIONS have to."
                    )
