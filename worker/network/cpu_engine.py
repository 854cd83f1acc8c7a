"""Monte Carlo dropout on a CPU: compiled kernels around one product of matrices by torch.

A spectrum's passes go in blocks through three steps: from the first dropout to the second one,
the dense layer that takes most of the arithmetic, and the rest. A block is a task of one thread,
and its arithmetic depends on the block alone; so the result of a spectrum is the same to the last
bit in any batch and on any number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.network.cpu_kernels import (
    convolve_spectrum,
    elements_first,
    finish_passes,
    pool_passes,
)
from worker.network.cpu_layers import (
    convolution,
    finishing_layers,
    finishing_space,
    pooled_to_hidden,
    windows,
)
from worker.network.cpu_steps import GROUP, N_PLANES, PLANE, POSITIONS, WINDOW_TILE
from worker.network.cpu_vectors import LANES
from worker.network.dense_layers import output_order
from worker.network.engine import (
    LARGEST_CONVOLVED,
    Engine,
    Floats,
    Flux,
    Precision,
    summarise,
)
from worker.network.masks import KEEP_SCALE
from worker.network.model import FILTERS, PADDING, POOL, ApogeeBCNNCensored
from worker.network.philox import philox_key
from worker.spectra.pixels import N_PIXELS

Singles = NDArray[np.float32]

#: Passes of a block, at most: its pooled values then lie in a core's second cache.
_BLOCK = 50
#: Spectra at once: they bound the memory.
_SPECTRA = 64
_PADDED = -(-(N_PIXELS + sum(PADDING)) // POOL)


class CpuEngine(Engine):
    """The engine for CPUs.

    Parameters
    ----------
    precision
        Of the products of the dense layer behind the convolutions; all else is float32.
        ``bfloat16`` moves a label by less than a thousandth of its uncertainty
        (``docs/mc_dropout.md``). ``auto`` takes it where the CPU multiplies it faster.
    threads
        As many as torch has, unless given.
    """

    def __init__(
        self,
        model: ApogeeBCNNCensored,
        *,
        mc_samples: int,
        seed: int,
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__(model, mc_samples=mc_samples, seed=seed)
        if precision == "auto":
            precision = "bfloat16" if multiplies_bfloat16() else "float32"
        self.precision = precision
        self.name = f"cpu ({precision})"
        n_blocks = -(-mc_samples // _BLOCK)
        edges = [mc_samples * block // n_blocks for block in range(n_blocks + 1)]
        self._blocks = [range(*pair) for pair in pairwise(edges)]
        self._read(model)
        self._space = threading.local()
        self._threads = _threads(threads or torch.get_num_threads())
        self.warm_up()

    def _read(self, model: ApogeeBCNNCensored) -> None:
        self._mean = model.input_mean.numpy()
        self._conv1 = convolution(model.conv1)
        self._conv2 = convolution(model.conv2, KEEP_SCALE)
        self._pixels, self._elements = windows(model)
        self._n_elements = sum(model.architecture.element1)
        self._dense_1 = torch.from_numpy(pooled_to_hidden(model))
        if self.precision == "bfloat16":
            self._dense_1 = self._dense_1.bfloat16()
        self._dense_1_bias = model.dense_1.bias.detach().clone()
        self._layers = finishing_layers(model)
        self._order = output_order(model)

    def _infer(self, flux: Flux, natural_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        return [
            pair
            for first in range(0, len(flux), _SPECTRA)
            for pair in self._some(flux[first : first + _SPECTRA], natural_keys[first:])
        ]

    def _some(self, flux: Flux, natural_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        spectra = (flux - self._mean).astype(np.float32)
        groups = [spectra[first : first + GROUP] for first in range(0, len(spectra), GROUP)]
        elements = np.concatenate(list(self._threads.map(self._first_layers, groups)))
        blocks = [
            (spectrum, element, philox_key(self.seed, natural_key), block)
            for spectrum, element, natural_key in zip(spectra, elements, natural_keys, strict=False)
            for block in self._blocks
        ]
        outputs = list(self._threads.map(self._block, blocks))
        step = len(self._blocks)
        passes = (np.concatenate(outputs[i : i + step]) for i in range(0, len(outputs), step))
        return [summarise(*np.split(each, 2, axis=1)) for each in passes]

    def _first_layers(self, spectra: Singles) -> Singles:
        """The elements' first hidden layers, ``(n, units)``, of at most eight spectra."""
        flux = np.zeros((N_PIXELS, GROUP), dtype=np.float32)
        flux[:, : len(spectra)] = spectra.T
        width = self._n_elements + WINDOW_TILE
        outputs = np.empty((GROUP, width), dtype=np.float32)
        elements_first(flux.ravel(), self._pixels, self._elements, outputs.ravel(), width)
        return outputs[: len(spectra), : self._n_elements]

    def _block(self, task: tuple[Singles, Singles, tuple[int, int], range]) -> Floats:
        """Normalised labels and log-variances of a spectrum's block, ``(passes, 44)``."""
        spectrum, elements, key, block = task
        space = self._thread_space()
        convolve_spectrum(_phases(spectrum), self._conv1, space.planes)
        if not space.planes.max() < LARGEST_CONVOLVED:  # nor what is not a number
            return np.full((len(block), len(self._order)), np.nan)
        pool_passes(
            *(space.planes, self._conv2, space.thinned, space.pooled),
            *(block.start, len(block), *key),
        )
        hidden = self._hidden(space.pooled_rows[: len(block)])
        finish_passes(hidden, elements, self._layers, space.finishing, block.start, *key)
        outputs = space.finishing.outputs.astype(np.float64) + space.finishing.shares
        by_pass = outputs.reshape(len(outputs), -1, LANES).transpose(0, 2, 1)
        return by_pass[:, :, self._order].reshape(-1, len(self._order))[: len(block)]

    @torch.inference_mode()
    def _hidden(self, pooled: Tensor) -> Singles:
        """The first hidden layer in groups of sixteen passes, ``(groups, units, 16)``."""
        hidden = functional.linear(pooled, self._dense_1).float().add_(self._dense_1_bias).relu_()
        groups = -(-len(hidden) // LANES)
        hidden = functional.pad(hidden, (0, 0, 0, groups * LANES - len(hidden)))
        lanes = hidden.view(groups, LANES, -1).transpose(1, 2).contiguous()
        values: Singles = lanes.numpy()
        return values

    def _thread_space(self) -> _Space:
        space: _Space | None = getattr(self._space, "mine", None)
        if space is None:
            self._space.mine = space = _Space(
                self.model, max(map(len, self._blocks)), self._dense_1.dtype
            )
        return space


class _Space:
    """Working space of one thread."""

    def __init__(self, model: ApogeeBCNNCensored, n_passes: int, pooled: torch.dtype) -> None:
        self.planes = np.zeros(N_PLANES * PLANE, dtype=np.float32)
        self.thinned = np.zeros(N_PLANES * PLANE, dtype=np.float32)
        self.pooled_rows = torch.zeros(n_passes, FILTERS[1] * POSITIONS, dtype=pooled)
        # numpy has no bfloat16: the kernels write its bits.
        bits = self.pooled_rows.view(torch.int16) if pooled.itemsize == 2 else self.pooled_rows
        self.pooled: NDArray[np.generic] = bits.flatten().numpy()
        self.finishing = finishing_space(model, -(-n_passes // LANES))


def _phases(spectrum: Singles) -> Singles:
    """A spectrum with its padding, by the position of each pixel modulo 4."""
    padded = np.zeros((_PADDED, POOL), dtype=np.float32)
    padded.reshape(-1)[PADDING[0] : PADDING[0] + N_PIXELS] = spectrum
    return np.ascontiguousarray(padded.T)


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    features = get_host_cpu_features()
    return bool(features.get("avx512bf16") or features.get("amx-bf16"))


def _threads(number: int) -> ThreadPoolExecutor:
    """Threads in each of which torch keeps to one."""
    before = torch.get_num_threads()
    ready = threading.Barrier(number + 1)

    def keep_to_one() -> None:
        torch.get_num_threads()  # it has its first look at the process's number now, not later
        torch.set_num_threads(1)
        ready.wait()

    executor = ThreadPoolExecutor(number, thread_name_prefix="cpu-engine")
    for _ in range(number):
        executor.submit(keep_to_one)
    ready.wait()
    torch.set_num_threads(before)
    return executor
