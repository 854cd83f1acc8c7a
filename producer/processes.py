"""What the processes have in common that share out a command's work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def depend_on_parent() -> None:
    """Leave interruptions to the parent process, and end with it however it ends.

    The initializer of a pool of processes: those of ``concurrent.futures`` would wait for work
    for ever after their parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
