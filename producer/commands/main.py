"""The command `astronn-stream`: a command imports its own module, and `--help` all of them.

Importing everything takes a second of CPU, and a local stack starts five processes at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.screen import say, tell_error
from worker.errors import StreamError, UsageError
from worker.log_records import escape_what_is_logged
from worker.version import software_version

#: What an installation may lack that neither infers, trains, converts weights nor draws: the
#: image `stage` of the Dockerfile.
LEFT_OUT = ("torch", "numba", "matplotlib", "h5py")

#: The commands, each of the module of its name in this package; `--help` follows this order.
COMMANDS = (
    *("run", "enqueue", "requeue", "forget", "dispatcher", "watch", "up", "worker", "export", "db"),
    *("status", "metrics", "calibrate", "recalibrate", "plot", "report", "model", "simulate"),
    *("compare", "demo", "bench"),
)


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """The command line with the command that the first argument names, or else with all."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help="APOGEE spectra in, stellar labels with uncertainties out.\n\n"
        "`run` does all of it in one command. A survey runs `up` (or the services of "
        "docker-compose.yml) and feeds it with `enqueue`.\n\n"
        "Settings come from the environment, as ASTRONN_STREAM_DATABASE_URL, "
        "ASTRONN_STREAM_BROKER_URL, ASTRONN_STREAM_MODEL and so on; see the README.",
    )
    app.callback(invoke_without_command=True)(_version)
    for name in set(arguments[:1]) & set(COMMANDS) or COMMANDS:
        command = getattr(import_module(f"producer.commands.{name}"), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command()(command)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(f"astronn-stream {software_version()}")
        raise typer.Exit


def main() -> None:
    """Run the command; errors that are meant for the user become one sentence.

    Every Python that it starts, those of ``multiprocessing`` too, looks for no module in the
    current folder.

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    escape_what_is_logged()
    try:
        _check_current_folder()
        command_line(sys.argv[1:])()
    except UsageError as error:
        _fail(error, 2)
    except StreamError as error:
        _fail(error, 1)
    except ModuleNotFoundError as error:
        if error.name not in LEFT_OUT:
            raise
        _fail(f"This needs {error.name}, which this installation leaves out; see docs/farm.md.", 1)


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"The current folder cannot be used ({error.strerror}); go to another one."
        ) from error


def _fail(error: object, status: int) -> None:
    tell_error(error)
    sys.exit(status)
