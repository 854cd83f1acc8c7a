"""The keys of the stream in Redis, besides Celery's own."""

from __future__ import annotations

import hashlib

_OURS = "astronn-stream:"

#: The life that the broker's Redis leads, see ``worker.transport.broker``.
BROKER = f"{_OURS}broker"
#: That a dispatcher looks after this Redis.
DISPATCHER = f"{_OURS}dispatcher"
#: What is never written, but would be if Redis took writes.
PROBE = f"{_OURS}probe"
#: The weights that the stack serves.
WEIGHTS = f"{_OURS}weights"
#: What lay in the queues and was no message.
SET_ASIDE = f"{_OURS}set-aside"
#: What the tasks have served; keys of short intervals follow it.
SPECTRA = f"{_OURS}spectra"
#: How many results came lately that are no job's here.
STRANGERS = f"{_OURS}strangers"
#: The vitals of a worker; its name follows.
WORKER = f"{_OURS}worker:"


def flux_key(message: str) -> str:
    """The key of the normalised flux that belongs to this very message."""
    return f"{_OURS}flux:{_digest(message)}"


def reading_key(what: str) -> str:
    """The key of the mark that a loader leaves while it reads a message's files, or one file."""
    return f"{_OURS}reading:{_digest(what)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
