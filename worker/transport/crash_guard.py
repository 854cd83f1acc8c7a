"""Files that kill the process that reads them get three tries, counted in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

from worker.errors import SpectrumError
from worker.messages import LoadSpectra, SpectrumReference
from worker.redis_keys import reading_key
from worker.transport.connection import connect, reachable

_MOST_CRASHES = 3
#: A mark that stays was left by a process that died.
_KEPT_SECONDS = 24 * 3600

#: What stands around the reading of a file, given the first of its spectra that are wanted.
Guard = Callable[[SpectrumReference], AbstractContextManager[None]]


class CrashGuard:
    """Marks a message while its files are read; a mark that stays tells of a reader that died.

    A reader of a distant Redis cannot wait for it at each file. So only where one has died of the
    message is each of its files marked too, which tells the one that kills.

    The marks lie beside the flux in the array store: losing them costs some more tries.
    """

    def __init__(self, url: str) -> None:
        self._redis = connect(url)

    @contextmanager
    def serving(self, message: LoadSpectra) -> Iterator[Guard]:
        """Stand around the work on a message; gives what stands around the reading of each file.

        That refuses with a ``SpectrumError`` a file of which three processes died. Its mark stays
        until the message is served, or a second such file of the message would bring it back.

        Raises
        ------
        TransientError
            Redis does not answer.
        """
        key = reading_key(message.array_key)
        files = _Files(self)
        guard = files.reading if self.mark(key) else _unguarded
        try:
            yield guard
        except Exception:
            self.forget(key)
            raise
        self.forget(key, *files.given_up)

    def mark(self, key: str) -> int:
        """How often a mark was left before it was set this time."""
        with reachable("The array store"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, _KEPT_SECONDS)
            return cast(int, pipeline.execute()[0]) - 1

    def forget(self, *keys: str) -> None:
        """Take marks away."""
        with reachable("The array store"):
            self._redis.delete(*keys)


class _Files:
    """The files of a message of which a process has died, whose death is counted already."""

    def __init__(self, guard: CrashGuard) -> None:
        self._guard = guard
        self.given_up: list[str] = []

    @contextmanager
    def reading(self, spectrum: SpectrumReference) -> Iterator[None]:
        key = reading_key(f"{spectrum.job} {spectrum.file_version}")
        if 1 + self._guard.mark(key) >= _MOST_CRASHES:
            self.given_up.append(key)  # enqueueing it again asks for new tries
            raise SpectrumError(
                f"{spectrum.path} ended {_MOST_CRASHES} processes that read it; look at the file "
                "and the loader's log."
            )
        try:
            yield
        except Exception:
            self._guard.forget(key)
            raise
        self._guard.forget(key)  # at once: the next file may end the process


def _unguarded(_: SpectrumReference) -> AbstractContextManager[None]:
    return nullcontext()
