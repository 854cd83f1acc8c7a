"""Thousands of damaged files before the two readers of apStar files, which must agree on each.

The damage is drawn anew for each seed; a smaller number gives the first of the same files.

nice uv run --group dev -m benchmarks.mutants [--number 4500] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rig.mutants import disagreement, is_plain, mutants, sound_files


def main() -> int:
    """Print what they disagree on; the exit status says whether there is such a thing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, plain, found = time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.fits")
        damaged = mutants(sound_files(Path(folder, "sound")), options.number, options.seed)
        for number, content in enumerate(damaged):
            path.write_bytes(content)
            plain += is_plain(path)
            if difference := disagreement(path):
                found += 1
                print(f"mutant {number}: {difference[:500]}", flush=True)
    seconds = time.perf_counter() - started
    print(f"{options.number} files, {plain} read by the lean reader: {found} disagreements")
    print(f"{seconds:.0f} s")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
