"""Monte Carlo dropout on a CPU, by compiled kernels.

A spectrum's passes go in parts, each a task of one thread, through two steps: from the first
dropout to the first hidden layer, where most of the arithmetic is, and the rest. The arithmetic
of a pass depends on the pass alone; so the result of a spectrum is the same to the last bit in
any batch, in whatever parts, and on any number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import NamedTuple

import numpy as np
import torch

from worker.array_types import Floats, Singles
from worker.network.engines.cpu.kernels import (
    convolve_spectrum,
    elements_first,
    finish_passes,
    hide_passes,
)
from worker.network.engines.cpu.layers import (
    Layer,
    PoolingSpace,
    bits,
    convolution,
    finishing_layers,
    finishing_space,
    paired_convolution,
    pooled_to_hidden,
    windows,
)
from worker.network.engines.cpu.products import GROUP, ROWS, WINDOW_TILE
from worker.network.engines.cpu.steps import N_PLANES, PLANE, POOLED_ROW
from worker.network.engines.cpu.threads import Threads
from worker.network.engines.cpu.vectors import LANES, cpu_has
from worker.network.engines.engine import LARGEST_CONVOLVED, Engine, Flux, Precision, summarise
from worker.network.model import PADDING, POOL, ApogeeBCNNCensored
from worker.network.philox import philox_key
from worker.spectra.pixels import N_PIXELS

#: Bytes of pooled values at once: they lie in a core's second cache.
_POOLED_BYTES = 768 * 1024
#: Spectra at once: they bound the memory.
_SPECTRA = 64
#: With fewer spectra than this for each thread, a thread without work costs more than parts do.
_FEW = 8
_PADDED = -(-(N_PIXELS + sum(PADDING)) // POOL)


class _Part(NamedTuple):
    """What a task computes: some passes of a spectrum, from ``first`` on.

    ``row`` is the spectrum's among those of ``elements``.
    """

    spectrum: Singles
    elements: list[Future[Singles]]
    row: int
    key: tuple[int, int]
    first: int
    outputs: Floats


class CpuEngine(Engine):
    """The engine for CPUs.

    Parameters
    ----------
    precision
        Of the inputs and weights of the dense layer behind the convolutions; all else is
        float32. ``bfloat16`` moves a label by less than a thousandth of its uncertainty
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
        device: str = "cpu",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__(model, mc_samples=mc_samples, seed=seed, device=device)
        if precision == "auto":
            precision = "bfloat16" if cpu_has("avx512bf16") else "float32"
        self.precision = precision
        self.name = f"cpu ({precision})"
        self._n_threads = threads or torch.get_num_threads()
        self._read(model)
        self._space = threading.local()
        self._threads = Threads(self._n_threads, "cpu-engine")
        self.warm_up()

    def _read(self, model: ApogeeBCNNCensored) -> None:
        self._mean = model.input_mean.numpy()
        self._conv1 = convolution(model.conv1)
        self._conv2 = paired_convolution(model.conv2)
        self._pixels, self._element_shares = windows(model, self._n_threads)
        self._precision = getattr(torch, self.precision)
        self._dense_1 = pooled_to_hidden(model, self._precision)
        self._layers = finishing_layers(model)

    def _infer(self, flux: Flux, mask_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        return [
            pair
            for first in range(0, len(flux), _SPECTRA)
            for pair in self._some(
                flux[first : first + _SPECTRA], mask_keys[first : first + _SPECTRA]
            )
        ]

    def _some(self, flux: Flux, mask_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        spectra = (flux - self._mean).astype(np.float32)
        elements = [
            self._submit_elements(spectra[first : first + GROUP])
            for first in range(0, len(spectra), GROUP)
        ]
        outputs = np.empty((len(spectra), self.mc_samples, len(self._layers.order)))
        step = self._passes_of_a_part(len(spectra))
        tasks = []
        for number, (spectrum, mask_key) in enumerate(zip(spectra, mask_keys, strict=True)):
            group, row = divmod(number, GROUP)
            key = philox_key(self.seed, mask_key)
            for first in range(0, self.mc_samples, step):
                passes = outputs[number, first : first + step]
                part = _Part(spectrum, elements[group], row, key, first, passes)
                tasks.append(self._threads.submit(self._infer_part, part))
        wait(tasks)
        for task in tasks:
            task.result()
        means, stds = summarise(*np.split(outputs, 2, axis=2))
        return list(zip(means, stds, strict=True))

    def _passes_of_a_part(self, n_spectra: int) -> int:
        """All, unless threads would then have nothing to do; else whole tiles."""
        even = n_spectra % self._n_threads == 0 or n_spectra > _FEW * self._n_threads
        parts = 1 if even else self._n_threads
        return -(-self.mc_samples // (parts * ROWS)) * ROWS

    def _submit_elements(self, spectra: Singles) -> list[Future[Singles]]:
        """The elements' first hidden layers of at most eight spectra, in shares of the outputs."""
        flux = np.zeros((N_PIXELS, GROUP), dtype=np.float32)
        flux[:, : len(spectra)] = spectra.T
        return [
            self._threads.submit(self._infer_elements, flux, share)
            for share in self._element_shares
        ]

    def _infer_elements(self, flux: Singles, share: Layer) -> Singles:
        width = len(share.biases)
        outputs = np.empty((GROUP, width), dtype=np.float32)
        elements_first(flux.ravel(), self._pixels, share, outputs.ravel(), width)
        return outputs[:, : width - WINDOW_TILE]

    def _infer_part(self, part: _Part) -> None:
        """Fill the part's outputs with normalised labels and log-variances."""
        space = self._thread_space()
        convolve_spectrum(_phases(part.spectrum), self._conv1, space.pooling.planes)
        if not space.pooling.planes.max() < LARGEST_CONVOLVED:  # nor what is not a number
            part.outputs[:] = np.nan
            return
        hide_passes(
            *(self._conv2, self._dense_1, space.pooling, space.hidden),
            *(part.first, len(part.outputs), *part.key),
        )
        elements = np.concatenate([share.result()[part.row] for share in part.elements])
        finish_passes(
            *(space.hidden, elements, self._layers, space.finishing, part.outputs),
            *(part.first, *part.key),
        )

    def _thread_space(self) -> _Space:
        space: _Space | None = getattr(self._space, "mine", None)
        if space is None:
            width = len(self._dense_1.biases)
            space = _Space(self.model, self.mc_samples, width, self._precision)
            self._space.mine = space
        return space


class _Space:
    """Working space of one thread."""

    def __init__(
        self, model: ApogeeBCNNCensored, n_passes: int, width: int, precision: torch.dtype
    ) -> None:
        tiles = min(_POOLED_BYTES // (precision.itemsize * POOLED_ROW), n_passes) // ROWS or 1
        self.pooling = PoolingSpace(
            planes=np.zeros(N_PLANES * PLANE, dtype=np.float32),
            thinned=np.zeros(N_PLANES * PLANE, dtype=np.float32),
            pooled=bits(torch.zeros(tiles * ROWS * POOLED_ROW, dtype=precision)),
        )
        # Whole tiles of passes, and whole groups of lanes.
        self.hidden = np.zeros((n_passes + ROWS + LANES, width), dtype=np.float32)
        self.finishing = finishing_space(model)


def _phases(spectrum: Singles) -> Singles:
    """A spectrum with its padding, by the position of each pixel modulo 4."""
    padded = np.zeros((_PADDED, POOL), dtype=np.float32)
    padded.reshape(-1)[PADDING[0] : PADDING[0] + N_PIXELS] = spectrum
    return np.ascontiguousarray(padded.T)
