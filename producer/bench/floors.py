"""Floors: what the arithmetic and the reading cost at the best rates that this machine shows.

Rates are measured in the same run. A floor leaves out whatever clever code could leave out:
random numbers, masks, pooling, headers, messages, the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from worker.network.model import ApogeeBCNNCensored
from worker.spectra.pixels import N_PIXELS

#: A rate is the best of so many calls at least, and of all in so many seconds.
_TRIES, _TRYING = 9, 1.0
#: Rows, inputs and outputs of the product: on a CPU the network's largest layer.
_CPU_PRODUCT, _PRODUCT = (1600, 7512, 192), (8192, 8192, 8192)
#: Of the weighted fit of three coefficients to the 532 continuum pixels: six different products
#: of polynomials and three with the flux.
_FIT_OPERATIONS = 2 * 532 * 9
#: A polynomial of three coefficients at each pixel.
_EVALUATION_OPERATIONS = 2 * 3 * N_PIXELS


def best(way: Callable[[], object]) -> float:
    """Seconds of the fastest of many calls: the one that nothing else disturbed."""
    taken: list[float] = []
    end = time.perf_counter() + _TRYING
    while len(taken) < _TRIES or time.perf_counter() < end:
        started = time.perf_counter()
        way()
        taken.append(time.perf_counter() - started)
    return min(taken)


def product_rate(precision: str, device: str) -> float:
    """Operations per second of torch's product of large matrices; a multiply-add is two."""
    rows, inputs, outputs = _CPU_PRODUCT if device == "cpu" else _PRODUCT
    dtype: torch.dtype = getattr(torch, precision)
    left = torch.ones(rows, inputs, dtype=dtype, device=device)
    right = torch.ones(outputs, inputs, dtype=dtype, device=device)

    def product() -> None:
        functional.linear(left, right)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * rows * inputs * outputs / best(product)


def operations(model: ApogeeBCNNCensored) -> tuple[float, float]:
    """Of one pass behind the first dropouts: in the layer of 7512 inputs, and in the rest."""
    sizes = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if name.endswith("weight") and not name.startswith(("conv1", "elem_dense1"))
    }
    largest = sizes.pop("dense_1.weight")
    convolution = sizes.pop("conv2.weight") * N_PIXELS
    return 2.0 * largest, 2.0 * (convolution + sum(sizes.values()))


def inference_floor(model: ApogeeBCNNCensored, passes: int, precision: str, device: str) -> float:
    """Seconds of a spectrum's passes: the largest layer in a precision, the rest in float32."""
    largest, rest = operations(model)
    return passes * (
        largest / product_rate(precision, device) + rest / product_rate("float32", device)
    )


def loading_floor(files: Sequence[Path], bytes_per_spectrum: float) -> float:
    """Seconds of a core to read a spectrum's rows from the page cache and normalise them.

    The rows at the rate at which whole files are read, the fit and its evaluation at the rate
    of a large product in double precision on one core, and a division for each pixel.
    """
    flux, continuum, out = np.ones(N_PIXELS), np.full(N_PIXELS, 2.0), np.empty(N_PIXELS)
    return (
        bytes_per_spectrum / read_rate(files)
        + (_FIT_OPERATIONS + _EVALUATION_OPERATIONS) / _double_rate()
        + best(lambda: np.divide(flux, continuum, out=out))
    )


def read_rate(files: Sequence[Path]) -> float:
    """Bytes per second of whole files that lie in the page cache, read into one buffer."""
    buffer = bytearray(max(path.stat().st_size for path in files))

    def read() -> None:
        for path in files:
            with path.open("rb", buffering=0) as file:
                file.readinto(buffer)

    return sum(path.stat().st_size for path in files) / best(read)


def _double_rate() -> float:
    """Operations per second of a large product in double precision on one core."""
    threads = torch.get_num_threads()
    matrix = torch.ones(600, 600, dtype=torch.float64)
    try:
        torch.set_num_threads(1)
        return 2 * len(matrix) ** 3 / best(lambda: matrix @ matrix)
    finally:
        torch.set_num_threads(threads)
