"""MC dropout: our engine beside the plain loop of passes, in the same run.

The plain loop is what the peers do: every pass runs a whole batch through the whole network
with torch's own dropout. Runs alternate, and medians are compared, because a shared machine
is noisy; the ratio means more than the times. It measures inference alone, on one device.

    uv run benchmarks/engine.py WEIGHTS [--passes 100] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from worker.network.dropout import RATE, McDropoutEngine, choose_device

from worker.network.checkpoint import read_checkpoint
from worker.network.model import ApogeeBCNNCensored
from worker.spectra.pixels import N_PIXELS

BATCHES = (1, 16, 64)


def torch_dropout(_site: str, values: Tensor) -> Tensor:
    """Dropout as torch draws it."""
    return functional.dropout(values, RATE)


@torch.inference_mode()
def plain_loop(model: ApogeeBCNNCensored, flux: np.ndarray, passes: int, device: str) -> None:
    """All passes one after the other, everything computed in each."""
    spectra = model.normalise_input(torch.from_numpy(flux).to(device))
    labels = torch.stack([model(spectra, torch_dropout)[0] for _ in range(passes)])
    labels.mean(dim=0).cpu()


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """How long one call takes, the device's work included."""
    started = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Print a table of milliseconds per spectrum and ratios."""
    parser = argparse.ArgumentParser(description="MC dropout engine beside the plain loop")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = choose_device("auto")
    model = read_checkpoint(arguments.weights)
    engine = McDropoutEngine(model, mc_samples=arguments.passes, seed=0, device=device)
    random = np.random.default_rng(0)
    print(
        f"{device}, {torch.get_num_threads()} threads, {arguments.passes} passes, "
        f"median of {arguments.rounds}; milliseconds per spectrum"
    )
    print(f"{'batch':>6} {'plain loop':>11} {'engine':>8} {'ratio':>6}")
    for batch in BATCHES:
        flux = random.normal(1, 0.1, size=(batch, N_PIXELS)).astype(np.float32)
        keys = [f"benchmark/{n}" for n in range(batch)]
        plain: list[float] = []
        fast: list[float] = []
        engine(flux[:1], keys[:1])  # warm up
        plain_loop(model, flux[:1], 2, device)
        for _ in range(arguments.rounds):
            plain.append(seconds(plain_loop, model, flux, arguments.passes, device))
            fast.append(seconds(engine, flux, keys))
        per_plain, per_fast = (1e3 * statistics.median(t) / batch for t in (plain, fast))
        print(f"{batch:>6} {per_plain:>11.1f} {per_fast:>8.1f} {per_plain / per_fast:>6.2f}")


if __name__ == "__main__":
    main()
