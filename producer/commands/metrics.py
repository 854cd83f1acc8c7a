"""The command `metrics`: the state of the stream, for Prometheus."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from producer.commands.screen import say
from worker.errors import UsageError
from worker.settings import get_settings
from worker.signals import stopping_on_signals


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
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="A name to answer to, beside addresses, localhost and this host's; repeatable.",
        ),
    ] = None,
) -> None:
    """Serve the stream's metrics for Prometheus, until Ctrl-C."""
    from prometheus_client import make_wsgi_app, start_http_server

    from worker.monitoring.hosts import answering_to
    from worker.monitoring.metrics import stream_registry

    if flower is not None and not flower.startswith(("http://", "https://")):
        raise UsageError(f"--flower {flower}: that is no URL; it looks like http://127.0.0.1:5555.")
    registry = stream_registry(get_settings(), flower)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise UsageError(f"--address {address} --port {port}: {error.strerror}.") from error
    server.set_app(answering_to(make_wsgi_app(registry), host or ()))
    with suppress(KeyboardInterrupt), stopping_on_signals():
        say(f"Metrics: http://{address}:{server.server_port}/metrics")
        thread.join()
    server.shutdown()
