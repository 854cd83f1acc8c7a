"""Peak memory: of a new process that does one thing, and of a command with all its children.

``python -m producer.bench.memory JSON`` is the new process. Figures come from Linux' ``/proc``;
elsewhere there are none.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.errors import FatalError

_PROC = Path("/proc")
#: Seconds between two looks at the processes of a command.
_INTERVAL = 0.5


def peak_memory(module: str, function: str, **arguments: object) -> float | None:
    """Megabytes at most that a process of its own holds which does nothing but call a function.

    On a GPU it is the device's memory. The arguments have to be such as JSON knows, paths
    given as text.

    Raises
    ------
    FatalError
        The function failed.
    """
    task = json.dumps({"module": module, "function": function, "arguments": arguments})
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", __name__, task], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        raise FatalError(f"{module}.{function} failed in a process of its own: {last}")
    peak: float | None = json.loads(done.stdout.splitlines()[-1])
    return peak


def available() -> float:
    """Megabytes that the machine has free; without bound where it does not say."""
    meminfo = _PROC / "meminfo"
    if not meminfo.exists():
        return float("inf")
    return _field(meminfo.read_text(encoding="ascii"), "MemAvailable:")


class MemoryWatch:
    """Watches what a process and all its children hold together; a context.

    Pages that several of them share count once (the proportional set size).
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def peak_mb(self) -> float | None:
        """The most that was seen at a time, in megabytes."""
        return self._peak or None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while _PROC.exists() and not self._done.wait(_INTERVAL):
            self._peak = max(self._peak, sum(map(_proportional, family(self._pid))))


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = defaultdict(list)
    for entry in _PROC.glob("[0-9]*"):
        children[_parent(entry)].append(int(entry.name))
    found = [pid]
    for each in found:
        found += children[each]
    return found


def _parent(entry: Path) -> int:
    try:
        # A name may hold spaces and brackets; what follows its last one does not.
        return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return 0


def _proportional(pid: int) -> float:
    try:
        return _field((_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii"), "Pss:")
    except OSError:
        return 0.0


def _field(text: str, name: str) -> float:
    """A size in kilobytes, in megabytes."""
    return int(text.partition(name)[2].split()[0]) / 1024


def _own_peak() -> float | None:
    """That of this process."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_reserved() / 2**20)
    # Not getrusage: what it tells begins with the memory of the process that started this one.
    status = _PROC / "self" / "status"
    return _field(status.read_text(), "VmHWM:") if status.exists() else None


def main() -> None:
    """Call a function, and print the peak as JSON."""
    task: dict[str, Any] = json.loads(sys.argv[1])
    getattr(importlib.import_module(task["module"]), task["function"])(**task["arguments"])
    print(json.dumps(_own_peak()))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads of an engine need not be waited for
