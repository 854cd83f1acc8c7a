"""The command `status`: the state of the stream on one screen."""

from __future__ import annotations

import json
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from producer.commands.screen import say
from worker.errors import UsageError
from worker.settings import Settings, get_settings
from worker.text import counted

if TYPE_CHECKING:
    from worker.monitoring.status import Status

console = Console(emoji=False)
_REFRESH_SECONDS = 2.0


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")
    ] = False,
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Show what lay in the queues and was no message."),
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Let go what was set aside.")] = False,
) -> None:
    """Show what is down, queues, jobs, rates, workers, and why spectra have no labels."""
    from worker.monitoring.status import read_status
    from worker.monitoring.status_view import draw

    if as_json + watch + set_aside + forget > 1:
        raise UsageError("Give one of --json, --watch, --set-aside and --forget.")
    settings = get_settings()
    if set_aside or forget:
        _tell_set_aside(settings, forget=forget)
    elif as_json:
        typer.echo(_as_json(read_status(settings)))
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


def _as_json(status: Status) -> str:
    """In ASCII, as JSON itself lets control characters beyond it pass."""
    return json.dumps(json.loads(status.model_dump_json()), indent=2)


def _tell_set_aside(settings: Settings, *, forget: bool) -> None:
    from worker.transport.client import broker_client
    from worker.transport.set_aside import all_set_aside, forget_set_aside

    with closing(broker_client(settings)) as client:
        entries = all_set_aside(client)
        if forget:
            forget_set_aside(client)
            say(f"{counted(len(entries), 'entry', 'entries')} forgotten.")
            return
    for each in entries:
        say(f"{each.moment} {each.queue}, {counted(each.size, 'byte')}: {each.reason}")
        say(f"    {each.beginning}")
