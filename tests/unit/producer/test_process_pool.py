from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.rig.waiting import wait_for
from producer.process_pool import LostProcessError, shared_out

#: A pool whose one process waits for more work; it says which that is.
PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from producer.process_pool import depend_on_parent
if __name__ == "__main__":
    context = get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=depend_on_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_processes_of_a_pool_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shared_work_gives_what_the_plain_loop_gives_in_order(processes: int) -> None:
    assert list(shared_out(partial(pow, 2), range(7), processes)) == [2**n for n in range(7)]
    assert not multiprocessing.active_children()


def test_what_the_work_raises_comes_in_its_place() -> None:
    numbers = shared_out(int, ["1", "2", "three", "4"], 2)
    assert [next(numbers), next(numbers)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(numbers)


def test_a_process_that_is_killed_while_it_sends_is_noticed() -> None:
    parts = shared_out(bytes, [1, 1, 50_000_000, 50_000_000], 2)
    assert [next(parts), next(parts)] == [bytes(1)] * 2
    time.sleep(0.5)  # both are now in the middle of more than a pipe holds
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(LostProcessError):
        next(parts)


def test_who_wants_no_more_leaves_no_process_behind() -> None:
    parts = shared_out(bytes, [1000] * 1000, 2)
    next(parts)
    assert len(multiprocessing.active_children()) == 2
    parts.close()
    assert not multiprocessing.active_children()
