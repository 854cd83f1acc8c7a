"""How busy a device is and how full its batches, for `status` and `metrics`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

_WINDOW_SECONDS = 30.0


@dataclass
class BatchStatistics:
    """Sums since the micro-batcher began, written by its one thread.

    ``busy_seconds`` of calls that have ended, ``waited_seconds`` of all spectra before theirs.
    """

    batches: int = 0
    spectra: int = 0
    busy_seconds: float = 0.0
    waited_seconds: float = 0.0
    running_since: float | None = None

    def begin(self, submitted: Sequence[float]) -> None:
        """A call begins, for spectra that were submitted at these moments."""
        moment = time.perf_counter()
        self.waited_seconds += sum(moment - each for each in submitted)
        self.batches += 1
        self.spectra += len(submitted)
        self.running_since = moment

    def end(self) -> None:
        """It has ended, well or not."""
        since, self.running_since = self.running_since, None
        if since is not None:
            self.busy_seconds += time.perf_counter() - since

    def now(self) -> BatchStatistics:
        """A copy, in which a call that runs counts as busy so far: one that is stuck does too."""
        copy = replace(self)
        copy.end()
        return copy


@dataclass
class RecentBatches:
    """Means over the last half minute, from statistics that are given now and then."""

    _looks: deque[tuple[float, BatchStatistics]] = field(default_factory=deque)

    def add(self, moment: float, statistics: BatchStatistics) -> dict[str, float]:
        """What the device did since the oldest look that is kept.

        Returns
        -------
        dict
            ``busy``, the fraction of the time; and where there were batches, ``batch_size``,
            their mean, and ``batch_wait``, the mean seconds that a spectrum waited for its own.
        """
        self._looks.append((moment, statistics))
        while len(self._looks) > 2 and self._looks[1][0] <= moment - _WINDOW_SECONDS:
            self._looks.popleft()
        first_moment, first = self._looks[0]
        elapsed = moment - first_moment
        busy = (statistics.busy_seconds - first.busy_seconds) / elapsed if elapsed > 0 else 0.0
        means = {"busy": min(1.0, max(0.0, busy))}
        if spectra := statistics.spectra - first.spectra:
            means["batch_size"] = spectra / (statistics.batches - first.batches)
            means["batch_wait"] = (statistics.waited_seconds - first.waited_seconds) / spectra
        return means
