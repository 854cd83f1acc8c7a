"""An outage of something that a process needs, logged once when it begins and when it ends."""

from __future__ import annotations

import logging
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
        """Something did not answer: a warning, unless that is known already."""
        with self._lock:
            known, self._reason = self._reason, printable(str(error))
        if known is None:
            logger.warning("action=%s: waiting: %s", self._action, self._reason)

    def end(self) -> None:
        """It answered."""
        with self._lock:
            known, self._reason = self._reason, None
        if known is not None:
            logger.warning("action=%s: goes on", self._action)
