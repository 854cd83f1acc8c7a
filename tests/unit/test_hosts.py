"""A server of metrics answers to its own names, not to what a foreign page calls it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from worker.monitoring.hosts import answering_to


@pytest.fixture
def port() -> Iterator[int]:
    server, thread = start_http_server(0, "127.0.0.1", CollectorRegistry())
    server.set_app(answering_to(server.get_app(), ["metrics"]))
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((name, 200) for name in ("localhost", "127.0.0.1", "[::1]", "METRICS")),
        (socket.gethostname(), 200),
        *((name, 421) for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil", "")),
        *((name, 421) for name in ("[::1", "localhost@evil.example", "metrics.evil")),
    ],
)
@pytest.mark.parametrize("suffix", ["", ":9540"])
def test_foreign_names_are_refused(port: int, host: str, status: int, suffix: str) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.putrequest("GET", "/metrics", skip_host=True)
    client.putheader("Host", host + suffix)
    client.endheaders()
    assert client.getresponse().status == status
    client.close()
