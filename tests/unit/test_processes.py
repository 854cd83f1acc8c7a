from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.conftest import wait_for

#: A pool whose one process waits for more work; it says which that is.
PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from producer.processes import depend_on_parent
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
