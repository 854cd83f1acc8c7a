"""What a night and whole releases need, from what a spectrum costs: the tables of docs/capacity.md.

uv run --group dev -m benchmarks.capacity [--gpu 5000]
"""

from __future__ import annotations

import argparse

#: Stars and visits; see docs/capacity.md.
WORK = {
    "a night": (450, 450 * 36 // 10),
    "DR17": (733_901, 2_659_178),
    "DR19": (1_122_272, 3_515_606),
}
#: Milliseconds of one core for a spectrum; the database's part of registering is in that.
COSTS = {
    "register": 0.12,
    "dispatch": 0.09,
    "load": 0.18,
    "infer": 1.74,
    "record": 0.37,
    "PostgreSQL": 0.19,
}
ON_A_GPU = "infer"
#: Bytes of a spectrum that are read from files (flux, error and mask) and kept in the database.
READ = 3 * 8575 * 8
KEPT = 3000


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", type=float, default=5000, help="spectra a second of a GPU")
    gpu = parser.parse_args().gpu
    print(
        "| | spectra | read | database | core hours | 2 cores | 16 cores | core hours but infer |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, (stars, visits) in WORK.items():
        spectra = stars + visits
        hours = spectra * sum(COSTS.values()) / 3.6e6
        without = hours - spectra * COSTS[ON_A_GPU] / 3.6e6
        print(
            f"| {name} | {spectra:,} | {size(spectra * READ)} | {size(spectra * KEPT)} | "
            f"{hours:.2g} | {duration(hours / 2)} | {duration(hours / 16)} | {without:.2g} |"
        )
    print(f"\nCores that keep up with {gpu:.0f} spectra a second:")
    for stage, cost in COSTS.items():
        print(f"| {stage} | {cost} ms | {gpu * cost / 1000:.1f} |")


def size(number: float) -> str:
    """Bytes in the unit that fits."""
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def duration(hours: float) -> str:
    """A time in the unit that fits."""
    for unit, size in (("h", 1), ("min", 60), ("s", 3600)):
        if hours * size >= 1:
            return f"{hours * size:.2g} {unit}"
    return "below 1 s"


if __name__ == "__main__":
    main()
