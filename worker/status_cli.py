"""The commands of those who watch: `status` and `metrics`."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from worker.errors import UsageError
from worker.settings import get_settings
from worker.signals import stopping_on_signals

console = Console()
_REFRESH_SECONDS = 2.0


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
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


def metrics(
    address: Annotated[
        str, typer.Option("--address", help="Where to listen; only this host by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 9540,
    flower: Annotated[
        str | None,
        typer.Option(
            "--flower",
            metavar="URL",
            help="Where Flower answers, as http://127.0.0.1:5555; its metrics are served too.",
        ),
    ] = None,
) -> None:
    """Serve the stream's metrics for Prometheus, until Ctrl-C."""
    from prometheus_client import start_http_server

    from worker.monitoring.metrics import stream_registry

    if flower is not None and not flower.startswith(("http://", "https://")):
        raise UsageError(f"--flower {flower}: that is no URL; it looks like http://127.0.0.1:5555.")
    registry = stream_registry(get_settings(), flower)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise UsageError(f"--address {address} --port {port}: {error.strerror}.") from error
    with suppress(KeyboardInterrupt), stopping_on_signals():
        console.print(f"Metrics: http://{address}:{server.server_port}/metrics", highlight=False)
        thread.join()
    server.shutdown()


def mount(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    for command in (status, metrics):
        app.command()(command)
