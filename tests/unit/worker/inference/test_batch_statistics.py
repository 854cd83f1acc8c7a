"""What a device has done, and the means over the last half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.inference.batch_statistics import BatchStatistics, RecentBatches
from worker.inference.batching import MicroBatcher

Flux = NDArray[np.float32]


def test_a_micro_batcher_counts_what_it_does() -> None:
    may_go_on = threading.Event()

    def infer(flux: Flux, keys: Sequence[str]) -> tuple[Floats, Floats]:
        assert may_go_on.wait(20)
        rows = np.full((len(keys), 22), flux[0, 0], dtype=float)
        return rows, rows

    batcher = MicroBatcher({"w": infer}, batch_size=4, batch_wait=0.0, longest_call=20.0)
    before = time.perf_counter()
    futures = batcher.submit(np.zeros((1, 3), dtype=np.float32), ["first"], "bulk", "w")
    while batcher.statistics.running_since is None:
        time.sleep(0.001)
    futures += batcher.submit(np.zeros((5, 3), dtype=np.float32), list("12345"), "bulk", "w")
    time.sleep(0.05)
    running = batcher.statistics.now()
    assert (running.batches, running.spectra) == (1, 1)
    assert 0.05 <= running.busy_seconds <= time.perf_counter() - before
    may_go_on.set()
    batcher.wait_for(futures)
    batcher.close()
    elapsed = time.perf_counter() - before
    done = batcher.statistics
    assert (done.batches, done.spectra, done.running_since) == (3, 6, None)
    assert running.busy_seconds <= done.busy_seconds <= elapsed
    assert 5 * 0.05 <= done.waited_seconds <= 6 * elapsed


def test_a_call_that_raises_is_over_too() -> None:
    def infer(flux: Flux, keys: Sequence[str]) -> tuple[Floats, Floats]:
        raise ValueError(f"a poisoned spectrum {keys} {flux}")

    batcher = MicroBatcher({"w": infer}, batch_size=4, batch_wait=0.0, longest_call=20.0)
    futures = batcher.submit(np.zeros((1, 3), dtype=np.float32), ["first"], "bulk", "w")
    batcher.wait_for(futures)
    batcher.close()
    assert batcher.statistics.running_since is None


def test_means_are_of_the_last_half_minute() -> None:
    recent = RecentBatches()
    assert recent.add(100.0, BatchStatistics()) == {"busy": 0.0}
    looks = [
        (102.0, BatchStatistics(batches=2, spectra=20, busy_seconds=1.0, waited_seconds=4.0)),
        (132.0, BatchStatistics(batches=4, spectra=60, busy_seconds=16.0, waited_seconds=24.0)),
        (162.0, BatchStatistics(batches=4, spectra=60, busy_seconds=16.0, waited_seconds=24.0)),
    ]
    found = [recent.add(*look) for look in looks]
    assert found[0] == pytest.approx({"busy": 0.5, "batch_size": 10, "batch_wait": 0.2})
    assert found[1] == pytest.approx({"busy": 0.5, "batch_size": 20, "batch_wait": 0.5})
    assert found[2] == {"busy": 0.0}  # nothing was computed any more
