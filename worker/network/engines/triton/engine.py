"""Monte Carlo dropout on an NVIDIA GPU: Triton's kernels over many spectra and passes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.array_types import Floats
from worker.labels import LABELS
from worker.network.engines.dense_layers import window_layers, window_pixels
from worker.network.engines.engine import LARGEST_CONVOLVED, Engine, Flux, Precision
from worker.network.engines.triton.convolutions import (
    CONVOLVED_PITCH,
    convolve_spectra,
    pool_passes,
)
from worker.network.engines.triton.dense import (
    dense_passes,
    finish_passes,
    first_elements,
    summarise_passes,
)
from worker.network.engines.triton.layers import (
    convolution,
    heads,
    mask_row,
    pooled_to_hidden,
    second_layers,
    tiles,
    whole,
)
from worker.network.engines.triton.masks import draw_masks
from worker.network.masks import CONV1, DENSE_1, ELEMENT1, ELEMENT2, KEEP_SCALE, POOLED
from worker.network.model import FILTERS, POOL, ApogeeBCNNCensored
from worker.network.philox import philox_key
from worker.spectra.pixels import N_PIXELS

#: Passes computed together, over all spectra: they bound the memory, some 19 kB each.
_ROWS = 12_800
#: Passes of one spectrum together, at most.
_PASSES = 1000

# Shapes of the kernels' tiles. They are part of the result's last bits where sums follow them.
_CALLS = 512
_PLACES = 512
_POSITIONS = 128
_PASSES_OF_A_PROGRAM = 25
_WINDOW_SPECTRA, _WINDOW_WIDTH, _WINDOW_STEP = 16, 32, 32
_DENSE_ROWS = {torch.bfloat16: 128, torch.float32: 64}
_DENSE_STEP = {torch.bfloat16: 64, torch.float32: 32}
_DENSE_UNITS = 64
_FINISH_ROWS, _FINISH_WIDTH, _FINISH_STEP = 64, 16, 32
_OUTPUTS = 64
_SUMMARY_PASSES = 16


class TritonEngine(Engine):
    """The engine for NVIDIA GPUs. It serves one thread: its buffers are its own.

    Parameters
    ----------
    precision
        Of the products of the dense layer behind the convolutions; all else is float32, means
        and variances float64. ``auto`` is ``bfloat16``, as ``CpuEngine`` has it.
    rows
        Passes computed together, over all spectra.
    """

    def __init__(
        self,
        model: ApogeeBCNNCensored,
        *,
        mc_samples: int,
        seed: int,
        device: str = "cuda",
        precision: Precision = "auto",
        rows: int = _ROWS,
    ) -> None:
        super().__init__(model, mc_samples=mc_samples, seed=seed, device=device)
        self._type = torch.float32 if precision == "float32" else torch.bfloat16
        self.name = f"triton ({str(self._type).removeprefix('torch.')})"
        self._passes = min(mc_samples, rows, _PASSES)
        self._spectra = rows // self._passes
        self._read(model)
        self._make_space()
        self.warm_up()

    def _read(self, model: ApogeeBCNNCensored) -> None:
        """Weights and tables, on the device."""
        calls, self._starts = mask_row(model.architecture, _CALLS)
        first = tiles(window_layers(model), _WINDOW_WIDTH, _WINDOW_STEP)
        second, self._hidden_tiles = second_layers(model, _FINISH_WIDTH, _FINISH_STEP)
        dense, biases = pooled_to_hidden(model, _DENSE_UNITS, _DENSE_STEP[self._type])
        finish = (*second, *heads(model, second, self._hidden_tiles, _OUTPUTS))
        pixels = torch.from_numpy(window_pixels(model).astype(np.int32))
        self._calls = calls.to(self.device)
        self._conv1 = convolution(model.conv1)
        self._conv2 = convolution(model.conv2, KEEP_SCALE)
        self._first = tuple(part.to(self.device) for part in (pixels, *first))
        self._dense = dense.to(self.device, self._type), biases.to(self.device)
        self._finish = tuple(part.to(self.device) for part in finish)

    def _make_space(self) -> None:
        """Memory for one chunk of spectra and passes, in whole tiles."""

        def space(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        rows = whole(self._spectra * self._passes, max(_FINISH_ROWS, *_DENSE_ROWS.values()))
        hidden, pooled = self._dense[0].shape
        self._convolved = space(self._spectra, FILTERS[0], CONVOLVED_PITCH)
        self._elements = space(self._spectra, sum(self.model.architecture.element1))
        self._bits = space(rows, self._calls.shape[1], dtype=torch.uint8)
        self._pooled = space(rows, pooled, dtype=self._type)
        self._hidden = space(rows, hidden)
        self._outputs = space(self._spectra, self.mc_samples, _OUTPUTS)

    @torch.inference_mode()
    def _infer(self, flux: Flux, mask_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        step = self._spectra
        chunks = [
            self._chunk(flux[first : first + step], mask_keys[first : first + step])
            for first in range(0, len(flux), step)
        ]
        return [(mean, std) for mean, std in torch.cat(chunks).cpu().numpy()]

    def _chunk(self, flux: Flux, mask_keys: Sequence[str]) -> Tensor:
        """Means and standard deviations of some spectra, ``(n, 2, 22)``, on the device."""
        spectra = self.model.normalise_input(self._upload(flux))
        words = [philox_key(self.seed, mask_key) for mask_key in mask_keys]
        keys = self._upload(np.array(words, dtype=np.uint32).view(np.int32))
        self._share(spectra)
        for first in range(0, self.mc_samples, self._passes):
            self._some_passes(keys, first, min(self._passes, self.mc_samples - first))
        return self._summarise(len(flux))

    def _upload(self, values: np.ndarray) -> Tensor:
        """To the device, without waiting for what it is still at."""
        tensor = torch.from_numpy(values)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _share(self, spectra: Tensor) -> None:
        """What lies ahead of the first dropouts."""
        n_spectra, units = len(spectra), self._elements.shape[1]
        _launch(
            convolve_spectra,
            (whole(CONVOLVED_PITCH, _PLACES) // _PLACES, n_spectra),
            *(spectra, self._conv1, self._convolved),
            BLOCK=_PLACES,
        )
        _launch(
            first_elements,
            (len(self._first[1]), whole(n_spectra, _WINDOW_SPECTRA) // _WINDOW_SPECTRA),
            *(spectra, *self._first, self._elements, n_spectra),
            PITCH=units,
            SPECTRA=_WINDOW_SPECTRA,
            WIDTH=_WINDOW_WIDTH,
            STEP=_WINDOW_STEP,
        )

    def _some_passes(self, keys: Tensor, first: int, n_passes: int) -> None:
        """Labels and log-variances of passes from ``first`` on, into the outputs' space."""
        self._draw(keys, first, n_passes)
        self._pool(len(keys), n_passes)
        self._multiply(len(keys) * n_passes)
        self._finish_passes(len(keys), first, n_passes)

    def _draw(self, keys: Tensor, first: int, n_passes: int) -> None:
        pitch = self._bits.shape[1]
        _launch(
            draw_masks,
            (pitch // _CALLS, _programs(n_passes), len(keys)),
            *(keys, self._calls, self._bits, first, n_passes),
            PITCH=pitch,
            BLOCK=_CALLS,
            PASSES=_PASSES_OF_A_PROGRAM,
        )

    def _pool(self, n_spectra: int, n_passes: int) -> None:
        _launch(
            pool_passes,
            (whole(N_PIXELS // POOL, _POSITIONS) // _POSITIONS, _programs(n_passes), n_spectra),
            *(self._convolved, self._bits, self._conv2, self._pooled, n_passes),
            PITCH=self._bits.shape[1],
            CONV1=self._starts[CONV1],
            POOLED=self._starts[POOLED],
            POOLED_PITCH=self._pooled.shape[1],
            BLOCK=_POSITIONS,
            PASSES=_PASSES_OF_A_PROGRAM,
        )

    def _multiply(self, n_rows: int) -> None:
        rows = _DENSE_ROWS[self._type]
        _launch(
            dense_passes,
            (self._hidden.shape[1] // _DENSE_UNITS, whole(n_rows, rows) // rows),
            *(self._pooled, *self._dense, self._bits, self._hidden),
            POOLED_PITCH=self._pooled.shape[1],
            PITCH=self._bits.shape[1],
            SITE=self._starts[DENSE_1],
            HIDDEN_PITCH=self._hidden.shape[1],
            ROWS=rows,
            UNITS=_DENSE_UNITS,
            STEP=_DENSE_STEP[self._type],
        )

    def _finish_passes(self, n_spectra: int, first: int, n_passes: int) -> None:
        _launch(
            finish_passes,
            (whole(n_spectra * n_passes, _FINISH_ROWS) // _FINISH_ROWS,),
            *(self._hidden, self._elements, self._bits, *self._finish, self._outputs),
            *(first, n_passes, self.mc_samples, n_spectra),
            HIDDEN_PITCH=self._hidden.shape[1],
            ELEMENTS_PITCH=self._elements.shape[1],
            PITCH=self._bits.shape[1],
            ELEMENT1=self._starts[ELEMENT1],
            ELEMENT2=self._starts[ELEMENT2],
            HIDDEN_TILES=self._hidden_tiles,
            TILES=len(self._finish[0]),
            ROWS=_FINISH_ROWS,
            WIDTH=_FINISH_WIDTH,
            STEP=_FINISH_STEP,
            OUTPUTS=_OUTPUTS,
        )

    def _summarise(self, n_spectra: int) -> Tensor:
        results = torch.empty(n_spectra, 2, len(LABELS), dtype=torch.float64, device=self.device)
        largest = self._convolved[:n_spectra].flatten(1).amax(dim=1)
        _launch(
            summarise_passes,
            (n_spectra,),
            *(self._outputs, largest, results, self.mc_samples),
            LIMIT=LARGEST_CONVOLVED,
            LABELS=len(LABELS),
            OUTPUTS=_OUTPUTS,
            PASSES=_SUMMARY_PASSES,
        )
        return results


def _programs(n_passes: int) -> int:
    return -(-n_passes // _PASSES_OF_A_PROGRAM)


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    kernel[grid](*arguments, **constants, enable_fp_fusion=True)
