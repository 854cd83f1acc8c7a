"""Who may use the device next: live spectra before bulk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.errors import YieldError

#: How soon a bulk message that waits for its turn notices a live one.
_POLL_SECONDS = 0.05
#: How long a bulk message stands back for live ones that are served; a steady flow of them
#: shall not keep it for ever.
_COURTESY_SECONDS = 1.0


class Admission:
    """Keeps one of the inference worker's threads, and the next batch, for live messages.

    Parameters
    ----------
    threads
        The worker's threads; bulk gets all but one of them, and at least one.
    """

    def __init__(self, threads: int) -> None:
        self._bulk = threading.Semaphore(max(1, threads - 1))
        self._live = 0
        self._changed = threading.Condition()

    @contextmanager
    def live(self) -> Iterator[None]:
        """A context for the work on a live message, which never waits."""
        with self._changed:
            self._live += 1
        try:
            yield
        finally:
            with self._changed:
                self._live -= 1
                self._changed.notify_all()

    @contextmanager
    def bulk(self, live_waits: Callable[[], bool]) -> Iterator[None]:
        """A context for the work on a bulk message, which waits for its turn.

        Parameters
        ----------
        live_waits
            Whether a live message waits for a thread.

        Raises
        ------
        YieldError
            It does: this one has to go back to its queue.
        """
        while not self._bulk.acquire(timeout=_POLL_SECONDS):
            if live_waits():
                raise YieldError("A live spectrum goes first.")
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._live, timeout=_COURTESY_SECONDS)
            yield
        finally:
            self._bulk.release()
