"""MC dropout: the engines beside the plain loop of passes, in the same run.

The plain loop is what the peers do: every pass runs a whole batch through the whole network
with torch's own dropout. Runs alternate, and medians are compared, because a shared machine
is noisy; the ratio means more than the times. It measures inference alone, on one device.

The floor is the arithmetic behind the first dropouts at the rate at which torch multiplies large
matrices in the same run: the layer of 7512 inputs in the engine's precision, the rest in float32.
Peak memory is that of a new process which does nothing but infer one batch.

    uv run benchmarks/engine.py [WEIGHTS] [--passes 100] [--rounds 5] [--batches 1 16 64 256]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.network.checkpoint import read_checkpoint
from worker.network.engine import Engine, choose_device, open_engine
from worker.network.masks import RATE
from worker.network.model import ApogeeBCNNCensored
from worker.network.starter import STARTER_WEIGHTS
from worker.network.torch_engine import TorchEngine
from worker.spectra.pixels import N_PIXELS

PLAIN = "plain loop"


def torch_dropout(_site: str, values: Tensor) -> Tensor:
    """Dropout as torch draws it."""
    return functional.dropout(values, RATE)


@torch.inference_mode()
def plain_loop(model: ApogeeBCNNCensored, flux: np.ndarray, passes: int, device: str) -> None:
    """All passes one after the other, everything computed in each."""
    spectra = model.normalise_input(torch.from_numpy(flux).to(device))
    labels = torch.stack([model(spectra, torch_dropout)[0] for _ in range(passes)])
    labels.mean(dim=0).cpu()


def engines(model: ApogeeBCNNCensored, passes: int, device: str) -> dict[str, Engine]:
    """Every engine of a device, and the precisions that it is asked for."""
    found: dict[str, Engine] = {
        "torch": TorchEngine(model, mc_samples=passes, seed=0, device=device)
    }
    if device == "cpu":
        for precision in ("float32", "auto"):
            engine = open_engine(model, mc_samples=passes, seed=0, precision=precision)
            found[engine.name] = engine
    return found


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """How long one call takes, the device's work included."""
    started = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def made_up(batch: int) -> tuple[np.ndarray, list[str]]:
    """Spectra of noise, and names for them."""
    flux = np.random.default_rng(0).normal(1, 0.1, size=(batch, N_PIXELS)).astype(np.float32)
    return flux, [f"benchmark/{number}" for number in range(batch)]


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Operations per second of a large product of matrices, a multiply-add being two."""
    left = torch.ones(1600, 7512, dtype=dtype, device=device)
    right = torch.ones(192, 7512, dtype=dtype, device=device)
    taken = [seconds(functional.linear, left, right) for _ in range(9)]
    return 2 * left.numel() * len(right) / min(taken)


def operations(model: ApogeeBCNNCensored) -> tuple[float, float]:
    """Of one pass behind the first dropouts: in the layer of 7512 inputs, and in the rest."""
    sizes = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if name.endswith("weight") and not name.startswith(("conv1", "elem_dense1"))
    }
    first = sizes.pop("dense_1.weight")
    convolution = sizes.pop("conv2.weight") * N_PIXELS
    return 2.0 * first, 2.0 * (convolution + sum(sizes.values()))


def floor(engine: str, model: ApogeeBCNNCensored, passes: int, rates: dict[str, float]) -> float:
    """Seconds per spectrum that the arithmetic takes at the rates of large products."""
    first, rest = operations(model)
    rate = rates["bfloat16" if "bfloat16" in engine else "float32"]
    return passes * (first / rate + rest / rates["float32"])


def peak_memory(weights: Path, name: str, passes: int, batch: int) -> float:
    """Megabytes at most that a process of its own needs for one batch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_infer_once, (weights, name, passes, batch))


def _infer_once(weights: Path, name: str, passes: int, batch: int) -> float:
    device = choose_device("auto")
    model = read_checkpoint(weights)
    flux, keys = made_up(batch)
    if name == PLAIN:
        plain_loop(model, flux, 2, device)
    else:
        engines(model, passes, device)[name](flux, keys)
    # Not getrusage: what it tells begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(arguments: argparse.Namespace, batch: int, device: str) -> list[dict[str, object]]:
    """Each engine and the plain loop in turn, some rounds of a batch."""
    model = read_checkpoint(arguments.weights)
    rates = {str(t).removeprefix("torch."): product_rate(t, device) for t in arguments.types}
    flux, keys = made_up(batch)
    runs: dict[str, Callable[[], object]] = {
        PLAIN: lambda: plain_loop(model, flux, arguments.passes, device)
    }
    for name, engine in engines(model, arguments.passes, device).items():
        runs[name] = lambda engine=engine: engine(flux, keys)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds + 1):
        for name, run in runs.items():
            second = seconds(run)
            if number:  # the first round warms up
                taken[name].append(second)
    rows: list[dict[str, object]] = []
    for name, times in taken.items():
        median = statistics.median(times)
        ratios = [one / other for one, other in zip(taken[PLAIN], times, strict=True)]
        lowest = floor(name, model, arguments.passes, rates)
        rows.append(
            {
                "batch": batch,
                "engine": name,
                "ms_per_spectrum": 1e3 * median / batch,
                "spectra_per_second": batch / median,
                "ratio": statistics.median(ratios),
                "floor_ms": 1e3 * lowest,
                "part_of_floor": lowest * batch / median,
                "peak_mb": peak_memory(arguments.weights, name, arguments.passes, batch),
            }
        )
    return rows


def main() -> None:
    """Print a table, and write it as JSON where that is wanted."""
    parser = argparse.ArgumentParser(description="MC dropout engines beside the plain loop")
    parser.add_argument("weights", type=Path, nargs="?", default=STARTER_WEIGHTS)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.types = (torch.float32, torch.bfloat16)
    device = choose_device("auto")
    print(
        f"{device}, {torch.get_num_threads()} threads, {arguments.passes} passes, "
        f"medians of {arguments.rounds} alternating rounds"
    )
    print(
        f"{'batch':>5} {'engine':<15} {'ms/spectrum':>11} {'spectra/s':>9} {'ratio':>6} "
        f"{'floor ms':>8} {'reached':>7} {'peak MB':>7}"
    )
    rows = []
    for batch in arguments.batches:
        for row in measure(arguments, batch, device):
            rows.append(row)
            print(
                f"{batch:>5} {row['engine']:<15} {row['ms_per_spectrum']:>11.2f} "
                f"{row['spectra_per_second']:>9.0f} {row['ratio']:>6.1f} {row['floor_ms']:>8.2f} "
                f"{row['part_of_floor']:>7.0%} {row['peak_mb']:>7.0f}",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
