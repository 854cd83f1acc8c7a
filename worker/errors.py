"""The errors of the stream, by what is to be done about them.

- ``SpectrumError``: the input is bad. Record it as a row without labels and go on.
- ``TransientError``: something outside is away. Try again.
- ``FatalError``: this process cannot do its work. Stop it and say why.
- ``UsageError``: the command was called wrongly. Say what to change.
"""

from __future__ import annotations


class StreamError(Exception):
    """The root of the errors that the stream raises on purpose.

    Its text is one sentence for the person who reads it: what is wrong, with which file,
    and what to do.
    """


class SpectrumError(StreamError):
    """A spectrum or its file cannot give labels; the text becomes the row's reason."""


class TransientError(StreamError):
    """Something that the work needs is away for now; the same call may succeed later."""


class BusyError(TransientError):
    """The next stage has enough to do; a pause, not a failure."""


class YieldError(BusyError):
    """Something more urgent waits: the message goes back to the head of its queue."""


class FatalError(StreamError):
    """The process cannot work at all: weights, noise model, database or Redis cannot be used."""


class UsageError(StreamError):
    """The command was called wrongly: a path that is not there, an option that cannot be."""
