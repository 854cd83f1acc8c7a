"""The CPU engine's kernels: numba's loops around the steps of ``steps``.

Each works on flat arrays and leaves the global interpreter lock, so that threads run several at
once. What they compute for a spectrum does not depend on what else they compute.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

from worker.network.engines.cpu.products import (
    COLUMNS,
    PANEL,
    ROWS,
    dense_tile,
    product_tile,
    window_tile,
)
from worker.network.engines.cpu.steps import (
    MARGIN,
    PLANE,
    POOLED_ROW,
    POSITIONS,
    STEP,
    convolve,
    drop_convolved,
    drop_units,
)
from worker.network.engines.cpu.vectors import LANES
from worker.network.masks import DENSE_1, ELEMENT1, ELEMENT2, NUMBERS_PER_BLOCK
from worker.network.model import FILTERS, KERNEL, POOL
from worker.spectra.pixels import N_PIXELS

_CHANNELS = FILTERS[0]


def _cache_folder() -> Path:
    """Where the user keeps compiled code: a folder for these sources, since numba looks at one."""
    network = Path(__file__).parents[2]
    sources = sorted([*Path(__file__).parent.glob("*.py"), *network.glob("*.py")])
    digest = hashlib.blake2b(b"".join(map(Path.read_bytes, sources)), digest_size=8).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(cache), "astronn-stream", digest)  # noqa: PTH111 - may fail


if not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(_cache_folder())


def _compiled(function: Callable[..., None]) -> Any:
    """Compile for this CPU at the first call, and keep the result where there is a place for it."""
    compiler = partial(numba.njit, nogil=True, boundscheck=False, error_model="numpy")
    try:
        return compiler(function, cache=True)
    except RuntimeError:  # the folder cannot be written
        return compiler(function)


@_compiled
def convolve_spectrum(flux: Any, weights: Any, planes: Any) -> None:
    """The first convolution with ReLU.

    ``flux`` is one padded spectrum by phases, ``(4, 1881)``: pixel 4 b + f at ``[f, b]``;
    ``weights`` the kernel, ``(2, 8)``, and then the biases; ``planes`` gets the convolved
    positions of each channel likewise.
    """
    for channel in range(_CHANNELS):
        for phase in range(POOL):
            start = (POOL * channel + phase) * PLANE + MARGIN
            values = planes[start : start + (N_PIXELS - phase + POOL - 1) // POOL]
            values[:] = weights[_CHANNELS * KERNEL + channel]
            for tap in range(KERNEL):
                seen = flux[(phase + tap) % POOL]
                first = (phase + tap) // POOL
                weight = weights[channel * KERNEL + tap]
                for position in range(values.size):
                    values[position] += weight * seen[first + position]
            for position in range(values.size):
                if values[position] <= 0:  # what is not a number stays so
                    values[position] = 0


@_compiled
def pool_passes(
    planes: Any,
    weights: Any,
    thinned: Any,
    pooled: Any,
    first: int,
    n_passes: int,
    key0: int,
    key1: int,
) -> None:
    """Some passes of a spectrum from the first dropout to the second one.

    ``thinned`` is working space of the shape of ``planes``, with zeros for margins; ``pooled``
    gets ``POOLED_ROW`` values for each pass.
    """
    for number in range(n_passes):
        row = number * POOLED_ROW
        # All of it first: a CPU waits where it loads across what it has just stored.
        for position in range(0, POSITIONS, LANES):
            drop_convolved(planes, thinned, position, first + number, key0, key1)
        for position in range(0, POSITIONS, STEP):
            convolve(thinned, weights, pooled, row, position, first + number, key0, key1)


@_compiled
def multiply(pooled: Any, n_passes: Any, layer: Any, hidden: Any, row: int) -> None:
    """The first dense layer without its ReLU, for whole tiles of passes.

    ``pooled`` is what ``pool_passes`` gives, ``hidden`` gets rows from ``row`` on.
    """
    per_word = 4 // pooled.itemsize
    n_words = POOLED_ROW // per_word
    width = hidden.shape[1]
    for number in range(n_passes):
        for column in range(width):  # a broadcast would take three seconds to compile
            hidden[row + number, column] = layer.biases[column]
    for word in range(0, n_words, PANEL):
        words = min(PANEL, n_words - word)
        for column in range(0, width, COLUMNS):
            weights = (word * width + column * words) * per_word
            for number in range(0, n_passes, ROWS):
                product_tile(
                    *(pooled, number * POOLED_ROW + word * per_word, words),
                    *(layer.weights, weights),
                    *(hidden.reshape(-1), (row + number) * width + column, width),
                )


@_compiled
def hide_passes(
    convolution: Any,
    layer: Any,
    space: Any,
    hidden: Any,
    first: int,
    n_passes: int,
    key0: int,
    key1: int,
) -> None:
    """Some passes of a spectrum from the first dropout to the first hidden layer.

    ``space`` is a ``PoolingSpace``; ``hidden`` gets a row for each pass, and more rows without
    meaning up to whole tiles.
    """
    block = space.pooled.size // POOLED_ROW
    for start in range(0, n_passes, block):
        number = min(block, n_passes - start)
        pool_passes(
            *(space.planes, convolution, space.thinned, space.pooled),
            *(first + start, number, key0, key1),
        )
        multiply(space.pooled, (number + ROWS - 1) // ROWS * ROWS, layer, hidden, start)


@_compiled
def elements_first(flux: Any, pixels: Any, layer: Any, outputs: Any, n_outputs: int) -> None:
    """The first dense layers of all elements with ReLU, for eight spectra.

    ``flux`` has eight spectra for each pixel; a layer's inputs are ``pixels``; ``outputs`` gets
    ``n_outputs`` for each spectrum.
    """
    for tile in range(layer.tiles.shape[0]):
        first, n_pixels, row, output = layer.tiles[tile]
        window_tile(
            *(flux, pixels, first, n_pixels, layer.weights, row, layer.biases, output),
            *(outputs, n_outputs),
        )


@_compiled
def drop(values: Any, kept: Any, site: int, n_units: int, first: int, key0: int, key1: int) -> None:
    """Dropout of all units of a site in sixteen passes from ``first`` on.

    ``values`` and ``kept``, which may be the same, have sixteen lanes for each unit, and room
    for whole blocks of eight.
    """
    for block in range((n_units + NUMBERS_PER_BLOCK - 1) // NUMBERS_PER_BLOCK):
        drop_units(values, kept, site, block, first, key0, key1)


@_compiled
def _dense(values: Any, layer: Any, outputs: Any, rectify: bool) -> None:
    for tile in range(layer.tiles.shape[0]):
        first, n_inputs, row, output = layer.tiles[tile]
        dense_tile(
            *(values, first * LANES, n_inputs, layer.weights, row, layer.biases),
            *(outputs, output, rectify),
        )


@_compiled
def finish_passes(
    hidden: Any,
    elements: Any,
    layers: Any,
    space: Any,
    outputs: Any,
    first: int,
    key0: int,
    key1: int,
) -> None:
    """Some passes of a spectrum from the first hidden layers on.

    Parameters
    ----------
    hidden
        What ``hide_passes`` gives, and rows without meaning up to whole groups of sixteen.
    elements
        ``(units,)``: the first hidden layers of all elements.
    layers
        A ``FinishingLayers``.
    space
        A ``FinishingSpace``.
    outputs
        ``(passes, 44)``: gets normalised labels and log-variances.
    """
    n_elements = elements.shape[0]
    for unit in range(n_elements):
        space.elements[unit * LANES : (unit + 1) * LANES] = elements[unit]
    for row in range(0, outputs.shape[0], LANES):
        start = first + row
        for unit in range(layers.n_hidden):
            for lane in range(LANES):
                value = hidden[row + lane, unit]
                space.hidden[unit * LANES + lane] = 0 if value <= 0 else value
        drop(space.hidden, space.hidden, DENSE_1, layers.n_hidden, start, key0, key1)
        _dense(space.hidden, layers.dense_2, space.hidden_2, True)
        _dense(space.hidden_2, layers.outputs, space.outputs, False)
        drop(space.elements, space.kept, ELEMENT1, n_elements, start, key0, key1)
        _dense(space.kept, layers.elements_2, space.elements_2, True)
        drop(space.elements_2, space.elements_2, ELEMENT2, layers.n_elements_2, start, key0, key1)
        _dense(space.elements_2, layers.shares, space.shares, False)
        for output in range(outputs.shape[1]):
            at = layers.order[output] * LANES
            for lane in range(min(LANES, outputs.shape[0] - row)):
                both = np.float64(space.outputs[at + lane]) + np.float64(space.shares[at + lane])
                outputs[row + lane, output] = both
