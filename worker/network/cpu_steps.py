"""Steps of the CPU's kernels that are written out in vectors.

Compilers do not find these forms in loops: Philox on sixteen counters at once, a convolution
whose inputs stay in registers, products of matrices in tiles. Each intrinsic is one call in
``cpu_kernels``; what it writes in its place is the function of the same name behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from worker.network.cpu_vectors import FLOAT32, FLOATS, INT32, INT64, LANES, ZEROS, Vectors, integer
from worker.network.masks import CONV1, NUMBERS_PER_BLOCK, POOLED
from worker.network.model import FILTERS, KERNEL, PADDING, POOL
from worker.spectra.pixels import N_PIXELS

#: Outputs of a tile of ``dense_tile``; spectra and vectors of outputs of ``window_tile``.
TILE = 8
GROUP = 8
_WINDOW_VECTORS = 2
WINDOW_TILE = _WINDOW_VECTORS * LANES

#: Pooled positions, rounded up to whole steps of the convolution.
STEP = 2 * LANES
POSITIONS = -(-(N_PIXELS // POOL) // STEP) * STEP
#: The convolved spectrum lies in planes, one for each channel and position modulo 4, so that
#: neighbours in a plane are pooled positions. Zeros lie on both sides of each.
N_PLANES = FILTERS[0] * POOL
MARGIN = LANES
PLANE = MARGIN + POSITIONS + MARGIN


def _call(write: Callable[..., None], *arguments: Any) -> Any:
    """The signature of an intrinsic without a result, and what writes it."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        write(Vectors(context, builder, signature), *values)
        return context.get_dummy_value()

    return types.none(*arguments), codegen


@intrinsic
def drop_convolved(
    _: Any, planes: Any, thinned: Any, position: Any, number: Any, key0: Any, key1: Any
) -> Any:
    """Dropout behind the first convolution at sixteen pooled positions of pass ``number``."""
    return _call(_drop_convolved, planes, thinned, position, number, key0, key1)


def _drop_convolved(
    steps: Vectors, planes: Any, thinned: Any, position: Any, number: Any, key0: Any, key1: Any
) -> None:
    counter = steps.counter(steps.counted(position), CONV1, number)
    for phase, word in enumerate(steps.philox(counter, (key0, key1))):
        for channel, keep in enumerate(steps.kept(word)):
            at = steps.at(position, (POOL * channel + phase) * PLANE + MARGIN)
            steps.store(1, thinned, at, steps.thinned(keep, steps.load(0, planes, at)))


@intrinsic
def convolve(
    _: Any,
    thinned: Any,
    weights: Any,
    pooled: Any,
    row: Any,
    position: Any,
    number: Any,
    key0: Any,
    key1: Any,
) -> Any:
    """The second convolution, ReLU, pooling and dropout at 32 pooled positions.

    ``weights`` holds the kernel, ``(4, 2, 8)``, and then the biases; ``pooled`` gets four planes
    from ``row`` on, float32 or, as 16-bit integers, the bits of bfloat16.
    """
    return _call(_convolve, thinned, weights, pooled, row, position, number, key0, key1)


def _convolve(
    steps: Vectors,
    thinned: Any,
    weights: Any,
    pooled: Any,
    row: Any,
    position: Any,
    number: Any,
    key0: Any,
    key1: Any,
) -> None:
    builder = steps.builder
    block = builder.lshr(position, integer(1))
    counter = steps.counter(steps.counted(block), POOLED, number)
    keeps = [steps.kept_in_order(word) for word in steps.philox(counter, (key0, key1))]
    for half in range(2):
        at = steps.at(position, half * LANES)
        inputs = _seen(steps, thinned, at)
        for first in range(0, FILTERS[1], 2):
            outputs = range(first, first + 2)
            for output, value in zip(
                outputs, _pooled(steps, inputs, weights, outputs), strict=True
            ):
                kept = steps.thinned(keeps[output][half], value)
                if steps.types[2].dtype != types.float32:
                    kept = steps.bfloat16(kept)
                place = builder.add(row, steps.at(at, output * POSITIONS))
                steps.store(2, pooled, place, kept)


def _seen(steps: Vectors, thinned: Any, at: Any) -> dict[tuple[int, int], Any]:
    """All inputs of a pooling window, by channel and by distance from its first position."""
    return {
        (channel, distance): steps.load(
            0,
            thinned,
            steps.at(at, (POOL * channel + distance % POOL) * PLANE + MARGIN + distance // POOL),
        )
        for channel in range(FILTERS[0])
        for distance in range(-PADDING[0], POOL + PADDING[1])
    }


def _pooled(
    steps: Vectors, inputs: dict[tuple[int, int], Any], weights: Any, outputs: range
) -> list[Any]:
    """The largest of a pooling window's four convolved values, rectified, for some channels."""
    zero = ZEROS
    totals = dict.fromkeys(product(outputs, range(POOL)), zero)
    for channel, tap in product(range(FILTERS[0]), range(KERNEL)):
        for output in outputs:
            index = (output * FILTERS[0] + channel) * KERNEL + tap
            weight = steps.splat(steps.load(1, weights, integer(index), FLOAT32), FLOATS)
            for phase in range(POOL):
                value = inputs[channel, phase + tap - PADDING[0]]
                totals[output, phase] = steps.multiply_add(value, weight, totals[output, phase])
    rectified = []
    for output in outputs:
        index = FILTERS[1] * FILTERS[0] * KERNEL + output
        bias = steps.splat(steps.load(1, weights, integer(index), FLOAT32), FLOATS)
        largest = steps.largest(
            steps.largest(totals[output, 0], totals[output, 1]),
            steps.largest(totals[output, 2], totals[output, 3]),
        )
        rectified.append(steps.largest(steps.builder.fadd(largest, bias), zero))
    return rectified


@intrinsic
def drop_units(
    _: Any, values: Any, row: Any, site: Any, block: Any, number: Any, key0: Any, key1: Any
) -> Any:
    """Dropout of the eight units of a block in sixteen passes from ``number`` on, in place.

    ``values`` has sixteen lanes for each unit, from ``row`` on.
    """
    return _call(_drop_units, values, row, site, block, number, key0, key1)


def _drop_units(
    steps: Vectors, values: Any, row: Any, site: Any, block: Any, number: Any, key0: Any, key1: Any
) -> None:
    block_word = steps.builder.trunc(block, INT32)
    site_word = steps.builder.trunc(site, INT32)
    counter = [block_word, site_word, steps.counted(number), ir.Constant(INT32, 0)]
    words = steps.philox(counter, (key0, key1))
    keeps = [keep for word in words for keep in steps.kept(word)]
    first = steps.builder.mul(block, integer(NUMBERS_PER_BLOCK * LANES))
    for unit, keep in enumerate(keeps):
        at = steps.builder.add(row, steps.at(first, unit * LANES))
        steps.store(0, values, at, steps.thinned(keep, steps.load(0, values, at)))


@intrinsic
def dense_tile(
    _: Any,
    inputs: Any,
    input_row: Any,
    n_inputs: Any,
    weights: Any,
    weight_row: Any,
    biases: Any,
    outputs: Any,
    output: Any,
    rectify: Any,
) -> Any:
    """Eight outputs of a dense layer in sixteen passes.

    ``weights`` has eight outputs for each input, from ``weight_row`` on. ``output`` is the number
    of the first output, in ``biases`` and in ``outputs``.
    """
    return _call(
        _dense_tile,
        *(inputs, input_row, n_inputs, weights, weight_row, biases, outputs, output, rectify),
    )


def _dense_tile(
    steps: Vectors,
    inputs: Any,
    input_row: Any,
    n_inputs: Any,
    weights: Any,
    weight_row: Any,
    biases: Any,
    outputs: Any,
    output: Any,
    rectify: Any,
) -> None:
    builder = steps.builder
    totals = [cgutils.alloca_once(builder, FLOATS) for _ in range(TILE)]
    for number, total in enumerate(totals):
        bias = steps.load(5, biases, steps.at(output, number), FLOAT32)
        builder.store(steps.splat(bias, FLOATS), total)
    with cgutils.for_range(builder, n_inputs) as loop:
        lanes = builder.mul(loop.index, integer(LANES))
        value = steps.load(0, inputs, builder.add(input_row, lanes))
        first = builder.add(weight_row, builder.mul(loop.index, integer(TILE)))
        for number, total in enumerate(totals):
            weight = steps.splat(steps.load(3, weights, steps.at(first, number), FLOAT32), FLOATS)
            builder.store(steps.multiply_add(value, weight, builder.load(total)), total)
    for number, total in enumerate(totals):
        value = builder.load(total)
        value = builder.select(rectify, steps.rectified(value), value)
        at = builder.mul(steps.at(output, number), integer(LANES))
        steps.store(6, outputs, at, value)


@intrinsic
def window_tile(
    _: Any,
    flux: Any,
    pixels: Any,
    first: Any,
    n_pixels: Any,
    weights: Any,
    weight_row: Any,
    biases: Any,
    output: Any,
    outputs: Any,
    n_outputs: Any,
) -> Any:
    """32 outputs of a dense layer that sees the pixels of a window, for eight spectra; with ReLU.

    ``flux`` has eight spectra for each pixel, ``outputs`` ``n_outputs`` for each spectrum.
    """
    return _call(
        _window_tile,
        *(flux, pixels, first, n_pixels, weights, weight_row, biases, output, outputs, n_outputs),
    )


def _window_tile(
    steps: Vectors,
    flux: Any,
    pixels: Any,
    first: Any,
    n_pixels: Any,
    weights: Any,
    weight_row: Any,
    biases: Any,
    output: Any,
    outputs: Any,
    n_outputs: Any,
) -> None:
    builder = steps.builder
    places = list(product(range(GROUP), range(_WINDOW_VECTORS)))
    totals = {place: cgutils.alloca_once(builder, FLOATS) for place in places}
    for (_spectrum, vector), total in totals.items():
        builder.store(steps.load(6, biases, steps.at(output, vector * LANES)), total)
    with cgutils.for_range(builder, n_pixels) as loop:
        pixel = steps.load(1, pixels, builder.add(first, loop.index), INT64)
        seen = builder.mul(pixel, integer(GROUP))
        row = builder.mul(loop.index, integer(WINDOW_TILE))
        at = builder.add(weight_row, row)
        kernel = [
            steps.load(4, weights, steps.at(at, vector * LANES))
            for vector in range(_WINDOW_VECTORS)
        ]
        for spectrum in range(GROUP):
            value = steps.splat(steps.load(0, flux, steps.at(seen, spectrum), FLOAT32), FLOATS)
            for vector, weight in enumerate(kernel):
                total = totals[spectrum, vector]
                builder.store(steps.multiply_add(value, weight, builder.load(total)), total)
    for (spectrum, vector), total in totals.items():
        row = builder.mul(n_outputs, integer(spectrum))
        at = builder.add(row, steps.at(output, vector * LANES))
        steps.store(8, outputs, at, steps.rectified(builder.load(total)))
