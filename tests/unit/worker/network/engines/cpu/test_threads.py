"""The threads of the CPU's engine: they work for whoever still waits, and end when nobody can."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from benchmarks.rig.waiting import wait_for
from worker.network.engines.cpu.threads import Threads

#: A task of a worker's pool that is finished while the interpreter ends, as after SIGQUIT.
AT_THE_END = """
import time
from concurrent.futures import ThreadPoolExecutor
from worker.network.engines.cpu.threads import Threads

engine = Threads(2, "engine")
engine.submit(print, "begun").result()

def finish():
    time.sleep(0.5)  # the interpreter has begun to end
    print(engine.submit(sum, [1, 2]).result(10), engine.submit(sum, [3, 4]).result(10))

ThreadPoolExecutor(1).submit(finish)
"""


def test_results_and_errors_come_back() -> None:
    threads = Threads(2, "some")
    assert threads.submit(divmod, 7, 2).result(10) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 7, 0).result(10)
    assert threads.submit(sum, [1, 2]).result(10) == 3, "an error ends no thread"


def test_they_work_at_the_same_time() -> None:
    threads, barrier = Threads(3, "three"), threading.Barrier(3, timeout=10)
    for future in [threads.submit(barrier.wait) for _ in range(3)]:
        future.result(10)


def test_they_work_until_the_interpreter_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("begun\n3 7\n", "")


def test_they_end_with_their_owner() -> None:
    threads = Threads(2, "forgotten")
    threads.submit(sum, [1]).result(10)
    del threads
    gc.collect()
    wait_for(
        lambda: not [each for each in threading.enumerate() if each.name.startswith("forgotten")],
        "the threads to end",
        10,
    )
