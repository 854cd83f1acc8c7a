"""Signals to stop, and children that end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from types import FrameType


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, however it dies; no other system offers that."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into the exception that Ctrl-C raises."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form of a handler
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    yield
