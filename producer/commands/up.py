"""The command `up`: a local stack in the foreground."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.notice import tell_weights
from producer.commands.options import Corrections, Model, check_file, settings_with
from producer.commands.screen import say
from worker.database.session import wait_for_database
from worker.errors import UsageError
from worker.identity import weights_sha256
from worker.local.stack import FLOWER, REDIS, WHOLE_STACK, LocalStack
from worker.signals import stopping_on_signals
from worker.starter.bundled import weights_path
from worker.transport.client import broker_answers


def up(
    model: Model = None,
    corrections: Corrections = None,
    also_model: Annotated[
        list[Path] | None,
        typer.Option(
            "--also-model",
            metavar="FILE",
            parser=weights_path,
            help="Other weights to serve beside those of --model; may be given several times.",
        ),
    ] = None,
    also_corrections: Annotated[
        list[Path] | None,
        typer.Option(
            "--also-corrections",
            metavar="FILE",
            help="A noise model for them, which names its weights; may be given several times.",
        ),
    ] = None,
    flower: Annotated[
        bool, typer.Option("--flower", help="Also start Flower on http://127.0.0.1:5555.")
    ] = False,
) -> None:
    """Run a local stack in the foreground: redis-server, the workers and the dispatcher.

    Ctrl-C stops it. Give it spectra from another terminal with `astronn-stream enqueue`. A
    redis-server is started only where ASTRONN_STREAM_BROKER_URL names none.
    """
    settings = settings_with(model, corrections).changed(
        also_models=_paths("--also-model", also_model),
        also_corrections=_paths("--also-corrections", also_corrections),
    )
    weights = weights_sha256(settings.weights_file)
    for file in settings.weights_files:
        weights_sha256(file)  # each can be read
    if settings.broker_url is None and broker_answers(settings):
        raise UsageError("A local stack for this database is running already.")
    tell_weights(weights)
    services = [*WHOLE_STACK]
    services += [REDIS] if settings.broker_url is None else []
    services += [FLOWER] if flower else []
    try:
        with stopping_on_signals():
            wait_for_database(settings.database_url, "up")
            _serve(LocalStack(settings, settings.stack_directory, services=services))
    except KeyboardInterrupt:
        say("The stack is down.")


def _paths(option: str, files: list[Path] | None) -> str | None:
    """The files of an option as the settings have them; raises ``UsageError`` for a missing one."""
    for file in files or ():
        check_file(option, file)
    return None if files is None else os.pathsep.join(map(str, files))


def _serve(stack: LocalStack) -> None:
    with stack:
        say("The stack is starting; stop it with Ctrl-C.")
        while True:
            for name in stack.check():
                say(f"{name} died and was started again.")
            time.sleep(0.5)
