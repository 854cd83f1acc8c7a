"""An outage of something that a process needs, told as it begins, changes its reason and ends."""

from __future__ import annotations

import logging
import re
import threading

from worker.text import printable

logger = logging.getLogger(__name__)


class Outage:
    """What the log says about Redis or the database being away; threads may share one."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._reason: str | None = None
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether something does not answer, as far as is known."""
        return self._reason is not None

    def begin(self, error: Exception) -> None:
        """Something did not answer: a warning, unless that is known already for this reason."""
        with self._lock:
            known, self._reason = self._reason, printable(str(error))
        if known is None or _kind(known) != _kind(self._reason):
            logger.warning("action=%s: waiting: %s", self._action, self._reason)

    def end(self) -> None:
        """It answered."""
        with self._lock:
            known, self._reason = self._reason, None
        if known is not None:
            logger.warning("action=%s: goes on", self._action)


def _kind(reason: str) -> str:
    """A reason without its numbers, which differ each time."""
    return re.sub(r"\d+", "", reason)
