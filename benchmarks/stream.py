"""The main job in both modes: spectra per second, and the peak memory of each process.

Each mode processes the same files with a new database. The stream's time includes starting
the redis-server and the workers, as the user waits for them.

    uv run benchmarks/stream.py PATH --model WEIGHTS [--rounds 3]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

EXECUTABLE = Path(sys.executable).parent / "astronn-stream"
MODES: dict[str, list[str]] = {"stream": [], "serial": ["--serial"]}
SUMMARY = re.compile(r"Processed (\d+) spectr\w+ in ([\d.]+) s")


def name_of(process: psutil.Process) -> str:
    """What a process is called in the table."""
    command = " ".join(process.cmdline())
    for name in ("worker load", "worker infer", "worker record", "redis-server"):
        if name in command:
            return name
    return "local stack" if "worker.embedded" in command else "command"


def watch(process: subprocess.Popen[str], peaks: dict[str, float]) -> str:
    """Sample the memory of a command and its children until it ends; returns what it printed."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        for each in [root, *root.children(recursive=True)]:
            try:
                name, size = name_of(each), each.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue
            peaks[name] = max(peaks[name], size)
        time.sleep(0.02)
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(output + errors)
    return output


def main() -> None:
    """Print a table of both modes."""
    parser = argparse.ArgumentParser(description="The main job in both modes")
    parser.add_argument("path", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    peaks: dict[str, dict[str, float]] = {mode: defaultdict(float) for mode in MODES}
    rates: dict[str, list[float]] = defaultdict(list)
    walls: dict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for mode, options in MODES.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [EXECUTABLE, "run", arguments.path.resolve(), "--model"]
                command += [arguments.model.resolve(), *options]
                started = time.perf_counter()
                process = subprocess.Popen(
                    [str(part) for part in command],
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                match = SUMMARY.search(watch(process, peaks[mode]))
                walls[mode].append(time.perf_counter() - started)
                assert match is not None
                rates[mode].append(int(match[1]) / float(match[2]))
    for mode in MODES:
        rate, wall = statistics.median(rates[mode]), statistics.median(walls[mode])
        print(f"{mode}: {rate:.1f} spectra/s, {wall:.1f} s for the whole command")
        for name, peak in sorted(peaks[mode].items()):
            print(f"    {name:<14} {peak:6.0f} MiB at its peak")
    ratio = statistics.median(rates["stream"]) / statistics.median(rates["serial"])
    print(f"stream / serial: {ratio:.2f}")


if __name__ == "__main__":
    main()
