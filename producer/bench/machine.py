"""The machine that figures belong to."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from worker.settings import usable_cores
from worker.text import counted
from worker.version import software_version

Machine = dict[str, Any]

#: Beyond this many processes that compute, per core, others run beside the benchmark.
_BUSY = 0.3


def this_machine() -> Machine:
    """What the figures depend on, and how busy the machine is before they are taken."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "astronn_stream": software_version(),
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def sentence(machine: Machine) -> str:
    """The machine in a line."""
    parts = [
        f"{machine['processor']}, {counted(machine['cores'], 'core')}, {machine['memory_gb']} GB",
        *([machine["gpu"]] if machine["gpu"] else []),
        f"torch {machine['torch']} with {counted(machine['threads'], 'thread')}",
        f"Python {machine['python']}",
        machine["date"][:10],
    ]
    if busy(machine):
        parts.append(f"other jobs ran beside (load {machine['load_before']:g})")
    return "; ".join(parts)


def busy(machine: Machine) -> bool:
    """Whether something else computed when the benchmark began."""
    return bool(machine["load_before"] > _BUSY * machine["cores"])


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
