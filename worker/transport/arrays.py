"""The array store: normalised flux under keys in Redis, so that messages stay small."""

from __future__ import annotations

from enum import Enum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from worker.spectra.pixels import N_PIXELS
from worker.transport.connection import connect, reachable

_FLOAT32 = np.dtype("<f4")


_FINISHED = b"finished"


class Absent(Enum):
    """Why there is no flux under a key: it is gone, or it has served."""

    GONE = "gone"
    FINISHED = "finished"


class ArrayStore:
    """Flux of chunks of spectra, each under its key until a time to live runs out.

    Every method raises ``TransientError`` while the store cannot be reached.
    """

    def __init__(self, url: str, ttl: int) -> None:
        self._redis = connect(url)
        self._ttl = ttl

    def put(self, key: str, flux: NDArray[np.float32]) -> None:
        """Store ``(n, 7514)`` flux as float32 bytes, little-endian, C order."""
        with reachable("The array store"):
            self._redis.set(key, flux.astype(_FLOAT32, copy=False).tobytes(), ex=self._ttl)

    def get(self, key: str, n_spectra: int) -> NDArray[np.float32] | Absent:
        """The flux under a key, ``(n_spectra, 7514)``, or why there is none."""
        with reachable("The array store"):
            content = cast(bytes | None, self._redis.get(key))
        if content == _FINISHED:
            return Absent.FINISHED
        if content is None or len(content) != n_spectra * N_PIXELS * _FLOAT32.itemsize:
            return Absent.GONE
        return np.frombuffer(content, dtype=_FLOAT32).reshape(n_spectra, N_PIXELS)

    def finish(self, key: str) -> None:
        """Free the memory of a key whose spectra have their labels.

        A mark stays in its place: a message that is delivered once more then ends there. Were
        the key gone, each such message would have its spectra loaded again.
        """
        with reachable("The array store"):
            self._redis.set(key, _FINISHED, ex=self._ttl)
