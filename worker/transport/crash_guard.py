"""Files that kill the process that reads them get three tries, counted in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import SpectrumError
from worker.messages import SpectrumReference
from worker.redis_keys import reading_key
from worker.transport.connection import connect, reachable

_MOST_CRASHES = 3
#: A mark that stays was left by a process that died.
_KEPT_SECONDS = 24 * 3600


class CrashGuard:
    """Marks a file while it is read; a mark that stays tells of a reader that died.

    The marks lie beside the flux in the array store: losing them costs some more tries.
    """

    def __init__(self, url: str) -> None:
        self._redis = connect(url)

    @contextmanager
    def reading(self, spectrum: SpectrumReference) -> Iterator[None]:
        """Guard the reading of a file for a message, of which this is the first spectrum.

        Raises
        ------
        SpectrumError
            Three processes that read the file died of it.
        TransientError
            Redis does not answer.
        """
        key = reading_key(spectrum.job, spectrum.file_version)
        with reachable("The array store"):
            crashes = self._redis.incr(key) - 1
            self._redis.expire(key, _KEPT_SECONDS)
        if crashes >= _MOST_CRASHES:
            self._forget(key)  # enqueueing it again asks for new tries
            raise SpectrumError(
                f"{spectrum.path} ended {crashes} processes that read it; look at the file and "
                "the loader's log."
            )
        try:
            yield
        finally:
            self._forget(key)

    def _forget(self, key: str) -> None:
        with reachable("The array store"):
            self._redis.delete(key)
