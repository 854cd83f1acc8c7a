"""The command `status`: the state of the stream on one screen."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from worker.errors import UsageError
from worker.settings import get_settings

console = Console(emoji=False)
_REFRESH_SECONDS = 2.0


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")
    ] = False,
) -> None:
    """Show what is down, queues, jobs, rates, workers, and why spectra have no labels."""
    from worker.monitoring.status import read_status
    from worker.monitoring.status_view import draw

    if as_json and watch:
        raise UsageError("Give --json or --watch, not both.")
    settings = get_settings()
    if as_json:
        typer.echo(read_status(settings).model_dump_json(indent=2))
    elif not watch:
        console.print(draw(read_status(settings)))
    else:
        with (
            suppress(KeyboardInterrupt),
            Live(draw(read_status(settings)), console=console, auto_refresh=False) as screen,
        ):
            while True:
                time.sleep(_REFRESH_SECONDS)
                screen.update(draw(read_status(settings)), refresh=True)
