"""Products of matrices, written out in vectors: tiles whose sums stay in registers.

Each intrinsic is one call in ``kernels``; what it writes in its place is the function of the
same name behind it. The order in which a tile sums depends on nothing but the layer's inputs.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from worker.network.engines.cpu.steps import POOLED_ROW
from worker.network.engines.cpu.vectors import (
    FLOAT32,
    FLOATS,
    INT32,
    INT64,
    LANES,
    WORDS,
    Vectors,
    cpu_has,
    integer,
    written,
)

#: Passes and vectors of outputs of ``product_tile``: as many sums as a CPU has registers for.
ROWS, _PRODUCT_VECTORS = (10, 2) if cpu_has("avx512f") else (6, 1)
COLUMNS = _PRODUCT_VECTORS * LANES
#: Words of inputs whose weights for a tile lie in a core's first cache.
PANEL = 256

#: Outputs of a tile of ``dense_tile``; spectra and vectors of outputs of ``window_tile``.
TILE = 8
GROUP = 8
_WINDOW_VECTORS = 2
WINDOW_TILE = _WINDOW_VECTORS * LANES


@intrinsic
def product_tile(
    _: Any,
    pooled: Any,
    at: Any,
    n_words: Any,
    weights: Any,
    weight_row: Any,
    outputs: Any,
    output: Any,
    width: Any,
) -> Any:
    """Add to some outputs of the first dense layer in some passes what some inputs give.

    A word is a float32 or two bfloat16. ``pooled`` has ``POOLED_ROW`` values for each pass, of
    which ``n_words`` words from ``at`` on are read, ``weights`` a word of each output for each of
    them, ``outputs`` ``width`` values for each pass.
    """
    return written(_product_tile, pooled, at, n_words, weights, weight_row, outputs, output, width)


def _product_tile(
    steps: Vectors,
    pooled: Any,
    at: Any,
    n_words: Any,
    weights: Any,
    weight_row: Any,
    outputs: Any,
    output: Any,
    width: Any,
) -> None:
    builder = steps.builder
    single = steps.types[0].dtype == types.float32
    per_word, word, words = (1, FLOAT32, FLOATS) if single else (2, INT32, WORDS)
    multiply_add = steps.multiply_add if single else steps.add_products
    totals = {}
    for row, vector in product(range(ROWS), range(_PRODUCT_VECTORS)):
        place = builder.add(output, builder.mul(width, integer(row)))
        place = steps.at(place, vector * LANES)
        totals[row, vector] = place, cgutils.alloca_once(builder, FLOATS)
        builder.store(steps.load(5, outputs, place), totals[row, vector][1])
    with cgutils.for_range(builder, n_words) as loop:
        first = builder.add(weight_row, builder.mul(loop.index, integer(per_word * COLUMNS)))
        kernel = [
            steps.load(3, weights, steps.at(first, vector * LANES * per_word), words)
            for vector in range(_PRODUCT_VECTORS)
        ]
        seen = builder.add(at, builder.mul(loop.index, integer(per_word)))
        for row in range(ROWS):
            value = steps.load(0, pooled, steps.at(seen, row * POOLED_ROW), word)
            value = steps.splat(value, words)
            for vector, weight in enumerate(kernel):
                _, total = totals[row, vector]
                builder.store(multiply_add(value, weight, builder.load(total)), total)
    for place, total in totals.values():
        steps.store(5, outputs, place, builder.load(total))


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
    return written(
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
    return written(
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
