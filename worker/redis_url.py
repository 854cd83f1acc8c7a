"""URLs of Redis servers that Celery's kombu and redis-py understand alike."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

#: What a rediss:// URL may say about TLS: the parameters that both know.
_TLS = (
    *("ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path"),
    *("ssl_certfile", "ssl_keyfile", "ssl_check_hostname"),
)
_TLS_FILES = {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"}
#: How URLs of Celery's other brokers begin, as far as people will try them.
_OTHER_BROKERS = ("amqp", "amqps", "pyamqp", "sqs")
_CERT_REQS = ("required", "optional", "none")


def checked_redis_url(url: str, socket_scheme: str) -> str:
    """A Redis URL that means the same to both; rediss:// verifies unless it says otherwise.

    Parameters
    ----------
    socket_scheme
        How a URL of a unix socket begins: kombu and redis-py differ.

    Raises
    ------
    ValueError
        The URL cannot be used; the text leaves it out, since it may hold a password.
    """
    parts = _split(url)
    if parts is not None and parts.scheme in _OTHER_BROKERS:
        raise ValueError(
            "it has to be a Redis server, redis://:password@host:6379/0; in another broker, as "
            "RabbitMQ, the dispatcher could not see which messages are lost"
        )
    if parts is None or parts.scheme not in ("redis", "rediss", socket_scheme):
        raise ValueError(
            f"it looks like redis://:password@host:6379/0, rediss://... or {socket_scheme}:///path;"
            " within a password / ? # % are written as %2F %3F %23 %25"
        )
    if parts.scheme == socket_scheme:
        return url
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not query.keys() <= {*(_TLS if parts.scheme == "rediss" else ())}:
        raise ValueError(f"after ? there can be {', '.join(_TLS)}, and these only with rediss://")
    return url if parts.scheme == "redis" else _verifying(parts, query)


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, or None where a password that was not quoted has mixed them up."""
    try:
        parts = urlsplit(url)
        whole = parts.port != 0 and not parts.fragment
    except ValueError:
        return None
    is_socket = parts.scheme not in ("redis", "rediss")
    return parts if whole and (is_socket or re.fullmatch("/?[0-9]*", parts.path)) else None


def _verifying(parts: SplitResult, query: dict[str, str]) -> str:
    # Where a URL does not say ssl_cert_reqs, kombu trusts any server.
    reqs = query.get("ssl_cert_reqs", "required")
    reqs = reqs.removeprefix("CERT_").lower()  # CERT_REQUIRED in Celery's documentation
    if reqs not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs can be {', '.join(_CERT_REQS)}")
    # Every process of a stack must open the same file, wherever it was started.
    files = {name: str(Path(query[name]).absolute()) for name in _TLS_FILES & query.keys()}
    said = urlencode({**query, **files, "ssl_cert_reqs": reqs}, safe="/")
    return urlunsplit(parts._replace(query=said))
