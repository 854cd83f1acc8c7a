"""Which names a server answers to: a foreign page's script reaches it by a name of its own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def answering_to(app: _App, names: Collection[str] = ()) -> _App:
    """A WSGI application that refuses (421) requests whose ``Host`` is not this one's.

    Addresses, ``localhost`` and the host's own name are; others resolve a name of theirs to our
    address, so that their page may read what we answer (DNS rebinding).

    Parameters
    ----------
    names
        What else the server is called.
    """
    own = {each.lower() for each in ("localhost", socket.gethostname(), socket.getfqdn(), *names)}

    def guarded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        name = _name(environ.get("HTTP_HOST", ""))
        if name in own or _is_address(name):
            return app(environ, start_response)
        start_response("421 Misdirected Request", [("Content-Type", "text/plain")])
        return [b"This server is not called so; --host NAME lets it answer to a name.\n"]

    return guarded


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
